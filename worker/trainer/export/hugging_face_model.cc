#include "worker/trainer/export/hugging_face_model.h"

#include <fmt/format.h>

#include <utility>

#include "common/norm_plan.h"
#include "worker/trainer/model/families.h"
#include "worker/trainer/model/parameters.h"

namespace normlab::trainer {
namespace {

using nlohmann::ordered_json;

/// Why a model has no class, each reason with the blocks that it holds for; 0 stands for the model as a whole.
class Reasons {
 public:
  void Add(int layer, const std::string& text) {
    for (auto& [known, last] : reasons_) {
      if (known.first == text && last == layer - 1) {
        last = layer;
        return;
      }
    }
    reasons_.push_back({{text, layer}, layer});
  }
  bool empty() const { return reasons_.empty(); }
  std::string ToText() const {
    std::string text;
    for (const auto& [reason, last] : reasons_) {
      if (!text.empty()) text += "; ";
      text += reason.first;
      if (last == 0) continue;
      text += reason.second == last ? fmt::format(" (block {})", last)
                                    : fmt::format(" (blocks {} to {})", reason.second, last);
    }
    return text;
  }

 private:
  std::vector<std::pair<std::pair<std::string, int>, int>> reasons_;  // Text, first layer, last layer.
};

/// What keeps a sublayer from being x + branch(N(x)).
void CheckPreNorm(const SublayerPlan& plan, const char* name, int layer, Reasons* reasons) {
  const auto add_if = [&](bool is_so, const std::string& reason) {
    if (is_so) reasons->Add(layer, reason);
  };
  add_if(!plan.input_norm, fmt::format("{} has no norm on its input", name));
  add_if(plan.input_norm && plan.input_norm->kind == NormKind::kDyt, fmt::format("{} reads a tanh, no norm", name));
  add_if(plan.input_norm && plan.input_norm->eps_scale != 1, fmt::format("the norm of {} has an eps of its own", name));
  add_if(plan.branch_norm.has_value(), fmt::format("a norm stands behind {}", name));
  add_if(plan.sum_norm.has_value(), fmt::format("a norm stands behind the residual sum of {}", name));
  add_if(plan.residual_scale != 1,
         fmt::format("the residual around {} is multiplied by {:.4g}", name, plan.residual_scale));
  add_if(plan.residual_is_normed, fmt::format("the residual around {} is the norm's output", name));
  add_if(plan.branch_scale_kind != BranchScaleKind::kConstant, fmt::format("{} has a learned scale", name));
  add_if(plan.branch_scale_kind == BranchScaleKind::kConstant && plan.branch_scale != 1,
         fmt::format("{} is multiplied by {:.4g}", name, plan.branch_scale));
  add_if(plan.sum_scale != 1, fmt::format("the sum behind {} is multiplied by {:.4g}", name, plan.sum_scale));
  add_if(plan.gate != Gate::kNone, fmt::format("a gate stands on the stream at {}", name));
}

ordered_json LlamaConfig(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", vocab_size},
          {"hidden_size", model.hidden},
          {"intermediate_size", model.ffn_hidden},
          {"num_hidden_layers", model.num_layers},
          {"num_attention_heads", model.num_heads},
          {"num_key_value_heads", model.num_heads},
          {"head_dim", model.hidden / model.num_heads},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"rms_norm_eps", model.norm_eps},
          // The first name is read by versions before 5, the second by later ones.
          {"rope_theta", model.rope_base},
          {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", model.rope_base}}},
          {"max_position_embeddings", run.data.seq_len},
          {"initializer_range", model.init_std},
          {"tie_word_embeddings", false},
          {"bos_token_id", nullptr},
          {"eos_token_id", eos_id < 0 ? ordered_json() : ordered_json(eos_id)},
          {"pad_token_id", nullptr},
          {"torch_dtype", "float32"},
          {"dtype", "float32"}};
}

/// Positions are learned, the head is the embedding, and its norms have biases; see families.h.
ordered_json Gpt2Config(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"vocab_size", vocab_size},
          {"n_positions", model.max_positions},
          {"n_embd", model.hidden},
          {"n_layer", model.num_layers},
          {"n_head", model.num_heads},
          {"n_inner", model.ffn_hidden},
          {"activation_function", "gelu_new"},
          {"attn_pdrop", 0.0},
          {"embd_pdrop", 0.0},
          {"resid_pdrop", 0.0},
          {"layer_norm_epsilon", model.norm_eps},
          {"initializer_range", model.init_std},
          {"tie_word_embeddings", true},
          {"bos_token_id", nullptr},
          {"eos_token_id", eos_id < 0 ? ordered_json() : ordered_json(eos_id)},
          {"pad_token_id", nullptr},
          {"torch_dtype", "float32"},
          {"dtype", "float32"}};
}

/// What multiplies a parameter: the scale of a norm's output, where it belongs to that norm (its bias too).
double FoldedScale(const ParameterInfo& info, const Family& family, const std::vector<BlockPlan>& plans) {
  if (info.layer == 0) return 1;
  const BlockPlan& plan = plans[static_cast<size_t>(info.layer) - 1];
  const std::string block = fmt::format("{}{}.", family.blocks, info.layer - 1);
  if (info.name.starts_with(fmt::format("{}{}.", block, family.attention_norm)))
    return plan.attention.input_norm->output_scale;
  if (info.name.starts_with(fmt::format("{}{}.", block, family.ffn_norm))) return plan.ffn.input_norm->output_scale;
  return 1;
}

}  // namespace

HuggingFaceModel ExpressForHuggingFace(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  Reasons reasons;
  const Family& family = GetFamily(model.family);
  const bool is_gpt2 = model.family == "gpt2";
  if (model.family != "llama" && !is_gpt2) reasons.Add(0, fmt::format("family {} is not exported", model.family));
  if (!run.norm.final_norm) reasons.Add(0, "there is no norm before the head");
  const NormScheme scheme = SchemeOf(run.norm);
  if (scheme.has_embed_scale || run.norm.embed_norm) reasons.Add(0, "the embedding has a scale or norm behind it");
  const std::vector<BlockPlan> plans = PlanBlocks(model, run.norm);
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const BlockPlan& plan = plans[static_cast<size_t>(layer) - 1];
    CheckPreNorm(plan.attention, "attention", layer, &reasons);
    CheckPreNorm(plan.ffn, "the feed-forward network", layer, &reasons);
    if (plan.qkv_norms.IsAny()) reasons.Add(layer, "query and key have norms");
    const bool is_layer_norm = plan.ffn.input_norm && plan.ffn.input_norm->kind == NormKind::kLayer;
    if (!is_gpt2 && is_layer_norm) reasons.Add(layer, "norms are LayerNorms");
  }
  if (!reasons.empty()) {
    throw NotExpressible(fmt::format("no class of transformers computes a {} model with {}: {}", model.family,
                                     run.norm.scheme, reasons.ToText()));
  }
  HuggingFaceModel result;
  result.architecture = is_gpt2 ? "GPT2LMHeadModel" : "LlamaForCausalLM";
  result.config = is_gpt2 ? Gpt2Config(run, vocab_size, eos_id) : LlamaConfig(run, vocab_size, eos_id);
  for (const ParameterInfo& info : ListParameters(model, vocab_size, run.norm)) {
    result.arrays.push_back({info.name, info.name, info.shape, FoldedScale(info, family, plans)});
  }
  return result;
}

}  // namespace normlab::trainer
