#pragma once

#include <vector>

#include "worker/trainer/model/parameters.h"

namespace normlab::trainer {

/// The learned scales of one nGPT block (ngpt.h), in their order, with the release's names.
inline std::vector<BranchParameter> NgptScales(const ModelSpec& model) {
  return {{"attn_alpha", {model.hidden}},
          {"mlp_alpha", {model.hidden}},
          {"self_attn.sqk", {model.hidden}},
          {"mlp.suv", {2 * model.ffn_hidden}}};
}

}  // namespace normlab::trainer
