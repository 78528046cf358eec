#include "worker/trainer/model/parameters.h"

#include <fmt/format.h>

#include "worker/trainer/model/families.h"

namespace normlab::trainer {

int64_t ParameterInfo::NumElements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

namespace {

void CheckMiniMax(const ModelSpec& model) {
  if (model.hidden / model.num_heads % 4 != 0) {
    throw PermanentError(
        fmt::format("model.hidden {} over model.num_heads {} gives heads of {}: family minimax rotates "
                    "half of a head in pairs and needs a multiple of 4",
                    model.hidden, model.num_heads, model.hidden / model.num_heads));
  }
  if (model.num_heads % NumKeyValueHeads(model) != 0) {
    throw PermanentError(
        fmt::format("model.num_kv_heads {} does not divide model.num_heads {}", model.num_kv_heads, model.num_heads));
  }
  if (model.num_experts < 2 || model.softmax_every < 1) {
    throw PermanentError(fmt::format("model.num_experts {} must be at least 2 and model.softmax_every {} at least 1",
                                     model.num_experts, model.softmax_every));
  }
}

}  // namespace

void CheckModelSpec(const ModelSpec& model, int64_t vocab_size) {
  GetFamily(model.family);
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
  if (model.family == "minimax") CheckMiniMax(model);
}

std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm) {
  const Family& family = GetFamily(model.family);
  const int64_t hidden = model.hidden;
  std::vector<ParameterInfo> parameters;
  const auto add_embedding = [&](std::string_view name, int64_t rows) {
    parameters.push_back({fmt::format("{}.weight", name), {rows, hidden}, 0});
    parameters.back().is_embedding = true;
  };
  const auto add_norm = [&](std::string_view prefix, std::string_view name, int layer) {
    parameters.push_back({fmt::format("{}{}.weight", prefix, name), {hidden}, layer});
    if (family.has_layer_norm) parameters.push_back({fmt::format("{}{}.bias", prefix, name), {hidden}, layer});
  };
  add_embedding(family.embedding, vocab_size);
  if (!family.positions.empty()) add_embedding(family.positions, model.max_positions);
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const std::string prefix = fmt::format("{}{}.", family.blocks, layer - 1);
    for (const auto& branch : {family.attention(model, layer), family.ffn(model)}) {
      for (const BranchParameter& p : branch) {
        parameters.push_back({prefix + p.name, p.shape, layer, p.matrices, p.is_input_first});
      }
    }
    add_norm(prefix, family.attention_norm, layer);
    add_norm(prefix, family.ffn_norm, layer);
  }
  if (final_norm) add_norm("", family.final_norm, 0);
  if (!family.head.empty()) parameters.push_back({fmt::format("{}.weight", family.head), {vocab_size, hidden}, 0});
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
