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

std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, bool final_norm) {
  const int64_t hidden = model.hidden;
  const int64_t ffn_hidden = model.ffn_hidden;
  struct MatrixShape {
    BlockMatrix matrix;
    const char* name;
    int64_t out;
    int64_t in;
  };
  const MatrixShape matrices[] = {{BlockMatrix::kQuery, "self_attn.q_proj", hidden, hidden},
                                  {BlockMatrix::kKey, "self_attn.k_proj", hidden, hidden},
                                  {BlockMatrix::kValue, "self_attn.v_proj", hidden, hidden},
                                  {BlockMatrix::kOutput, "self_attn.o_proj", hidden, hidden},
                                  {BlockMatrix::kGate, "mlp.gate_proj", ffn_hidden, hidden},
                                  {BlockMatrix::kUp, "mlp.up_proj", ffn_hidden, hidden},
                                  {BlockMatrix::kDown, "mlp.down_proj", hidden, ffn_hidden}};
  std::vector<ParameterInfo> parameters = {{"model.embed_tokens.weight", {vocab_size, hidden}, 0, {}}};
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer - 1);
    for (const MatrixShape& shape : matrices) {
      parameters.push_back({prefix + shape.name + ".weight", {shape.out, shape.in}, layer, shape.matrix});
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
