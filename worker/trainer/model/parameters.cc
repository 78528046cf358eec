#include "worker/trainer/model/parameters.h"

#include <fmt/format.h>

namespace normlab::trainer {

int64_t ParameterInfo::NumElements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

void CheckModelSpec(const ModelSpec& model, int64_t vocab_size) {
  if (model.family != "llama") {
    throw PermanentError(fmt::format("model.family is \"{}\": this trainer builds \"llama\" only", model.family));
  }
  if (model.num_layers < 1 || model.hidden < 1 || model.num_heads < 1 || model.ffn_hidden < 1 || vocab_size < 1) {
    throw PermanentError(
        fmt::format("model.num_layers {}, hidden {}, num_heads {}, ffn_hidden {} and the dataset's vocabulary {} must "
                    "all be positive",
                    model.num_layers, model.hidden, model.num_heads, model.ffn_hidden, vocab_size));
  }
  if (model.hidden % model.num_heads != 0 || model.hidden / model.num_heads % 2 != 0) {
    throw PermanentError(
        fmt::format("model.hidden {} over model.num_heads {} gives no even head size, which the rotary embedding needs",
                    model.hidden, model.num_heads));
  }
}

std::vector<BranchParameter> AttentionParameters(const ModelSpec& model) {
  const std::vector<int64_t> square = {model.hidden, model.hidden};
  return {{"self_attn.q_proj.weight", square, BlockMatrix::kQuery},
          {"self_attn.k_proj.weight", square, BlockMatrix::kKey},
          {"self_attn.v_proj.weight", square, BlockMatrix::kValue},
          {"self_attn.o_proj.weight", square, BlockMatrix::kOutput}};
}

std::vector<BranchParameter> SwiGluParameters(const ModelSpec& model) {
  return {{"mlp.gate_proj.weight", {model.ffn_hidden, model.hidden}, BlockMatrix::kGate},
          {"mlp.up_proj.weight", {model.ffn_hidden, model.hidden}, BlockMatrix::kUp},
          {"mlp.down_proj.weight", {model.hidden, model.ffn_hidden}, BlockMatrix::kDown}};
}

std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm) {
  const int64_t hidden = model.hidden;
  std::vector<ParameterInfo> parameters = {{"model.embed_tokens.weight", {vocab_size, hidden}, 0, {}}};
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer - 1);
    for (const auto& branch : {AttentionParameters(model), SwiGluParameters(model)}) {
      for (const BranchParameter& p : branch) parameters.push_back({prefix + p.name, p.shape, layer, p.matrix});
    }
    parameters.push_back({prefix + "input_layernorm.weight", {hidden}, layer, {}});
    parameters.push_back({prefix + "post_attention_layernorm.weight", {hidden}, layer, {}});
  }
  if (final_norm) parameters.push_back({"model.norm.weight", {hidden}, 0, {}});
  parameters.push_back({"lm_head.weight", {vocab_size, hidden}, 0, {}});
  return parameters;
}

int64_t CountParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm) {
  int64_t count = 0;
  for (const ParameterInfo& parameter : ListParameters(model, vocab_size, final_norm)) {
    count += parameter.NumElements();
  }
  return count;
}

}  // namespace normlab::trainer
