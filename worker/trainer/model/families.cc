#include "worker/trainer/model/families.h"

#include <fmt/format.h>

namespace normlab::trainer {
namespace {

std::vector<BranchParameter> LlamaAttention(const ModelSpec& model, int) {
  const std::vector<int64_t> square = {model.hidden, model.hidden};
  return {{"self_attn.q_proj.weight", square, {BlockMatrix::kQuery}},
          {"self_attn.k_proj.weight", square, {BlockMatrix::kKey}},
          {"self_attn.v_proj.weight", square, {BlockMatrix::kValue}},
          {"self_attn.o_proj.weight", square, {BlockMatrix::kOutput}}};
}

std::vector<BranchParameter> LlamaFfn(const ModelSpec& model) {
  const std::vector<int64_t> up = {model.ffn_hidden, model.hidden}, down = {model.hidden, model.ffn_hidden};
  return {{"mlp.gate_proj.weight", up, {BlockMatrix::kGate}},
          {"mlp.up_proj.weight", up, {BlockMatrix::kUp}},
          {"mlp.down_proj.weight", down, {BlockMatrix::kDown}}};
}

BranchParameter InputFirst(BranchParameter parameter) {
  parameter.is_input_first = true;
  return parameter;
}

std::vector<BranchParameter> Gpt2Attention(const ModelSpec& model, int) {
  const int64_t hidden = model.hidden;
  return {
      InputFirst(
          {"attn.c_attn.weight", {hidden, 3 * hidden}, {BlockMatrix::kQuery, BlockMatrix::kKey, BlockMatrix::kValue}}),
      {"attn.c_attn.bias", {3 * hidden}},
      InputFirst({"attn.c_proj.weight", {hidden, hidden}, {BlockMatrix::kOutput}}),
      {"attn.c_proj.bias", {hidden}}};
}

std::vector<BranchParameter> Gpt2Ffn(const ModelSpec& model) {
  return {InputFirst({"mlp.c_fc.weight", {model.hidden, model.ffn_hidden}, {BlockMatrix::kUp}}),
          {"mlp.c_fc.bias", {model.ffn_hidden}},
          InputFirst({"mlp.c_proj.weight", {model.ffn_hidden, model.hidden}, {BlockMatrix::kDown}}),
          {"mlp.c_proj.bias", {model.hidden}}};
}

std::vector<BranchParameter> MiniMaxAttention(const ModelSpec& model, int layer) {
  const int64_t hidden = model.hidden;
  const std::vector<int64_t> square = {hidden, hidden};
  if (IsSoftmaxLayer(model, layer)) {
    const std::vector<int64_t> kv = {NumKeyValueHeads(model) * (hidden / model.num_heads), hidden};
    return {{"self_attn.q_proj.weight", square, {BlockMatrix::kQuery}},
            {"self_attn.k_proj.weight", kv, {BlockMatrix::kKey}},
            {"self_attn.v_proj.weight", kv, {BlockMatrix::kValue}},
            {"self_attn.o_proj.weight", square, {BlockMatrix::kOutput}}};
  }
  // Hugging Face's qkv_proj has the rows of the first three by head: q, k and v of head 0, of head 1, and so on.
  return {{"self_attn.q_proj.weight", square, {BlockMatrix::kQuery}},
          {"self_attn.k_proj.weight", square, {BlockMatrix::kKey}},
          {"self_attn.v_proj.weight", square, {BlockMatrix::kValue}},
          {"self_attn.output_gate.weight", square, {BlockMatrix::kOutputGate}},
          {"self_attn.out_proj.weight", square, {BlockMatrix::kOutput}},
          {"self_attn.norm.weight", {hidden}}};
}

std::vector<BranchParameter> MiniMaxFfn(const ModelSpec& model) {
  const std::vector<int64_t> up = {model.ffn_hidden, model.hidden}, down = {model.hidden, model.ffn_hidden};
  std::vector<BranchParameter> parameters = {
      {"block_sparse_moe.gate.weight", {model.num_experts, model.hidden}, {BlockMatrix::kRouter}}};
  for (int64_t e = 0; e < model.num_experts; ++e) {
    const std::string expert = fmt::format("block_sparse_moe.experts.{}.", e);
    parameters.push_back({expert + "w1.weight", up, {BlockMatrix::kGate}});
    parameters.push_back({expert + "w3.weight", up, {BlockMatrix::kUp}});
    parameters.push_back({expert + "w2.weight", down, {BlockMatrix::kDown}});
  }
  return parameters;
}

constexpr Family kFamilies[] = {
    {.name = "llama",
     .embedding = "model.embed_tokens",
     .positions = "",
     .blocks = "model.layers.",
     .attention_norm = "input_layernorm",
     .ffn_norm = "post_attention_layernorm",
     .final_norm = "model.norm",
     .head = "lm_head",
     .has_layer_norm = false,
     .attention = LlamaAttention,
     .ffn = LlamaFfn},
    {.name = "gpt2",
     .embedding = "transformer.wte",
     .positions = "transformer.wpe",
     .blocks = "transformer.h.",
     .attention_norm = "ln_1",
     .ffn_norm = "ln_2",
     .final_norm = "transformer.ln_f",
     .head = "",
     .has_layer_norm = true,
     .attention = Gpt2Attention,
     .ffn = Gpt2Ffn},
    {.name = "minimax",
     .embedding = "model.embed_tokens",
     .positions = "",
     .blocks = "model.layers.",
     .attention_norm = "input_layernorm",
     .ffn_norm = "post_attention_layernorm",
     .final_norm = "model.norm",
     .head = "lm_head",
     .has_layer_norm = false,
     .attention = MiniMaxAttention,
     .ffn = MiniMaxFfn},
};

}  // namespace

const Family& GetFamily(std::string_view name) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.name == name) return family;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.name);
  }
  throw PermanentError(fmt::format("model.family is \"{}\": this trainer builds {}", name, known));
}

bool IsSoftmaxLayer(const ModelSpec& model, int layer) { return layer % model.softmax_every == 0; }

int64_t NumKeyValueHeads(const ModelSpec& model) {
  return model.num_kv_heads == 0 ? model.num_heads : model.num_kv_heads;
}

}  // namespace normlab::trainer
