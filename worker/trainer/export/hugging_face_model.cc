#include "worker/trainer/export/hugging_face_model.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>
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

/// A class of the transformers library: the blocks that it computes, and how its config.json differs from Llama's.
struct HuggingFaceClass {
  std::string_view architecture;
  std::string_view model_type;
  std::string_view family;
  bool has_input_norm;
  bool has_branch_norm;
  QkNorm qk_norm = QkNorm::kNone;
  ordered_json (*config)(const RunSpec& run, int64_t vocab_size, int64_t eos_id) = nullptr;
  double gain_offset = 0;         // It adds so much to the gains that it stores.
  bool scales_embedding = false;  // It multiplies the embedding by sqrt(hidden).
};

ordered_json LlamaConfig(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  return {{"vocab_size", vocab_size},
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

/// What Gemma 2 adds to a block with norms on both sides of its branches is turned off: soft caps and sliding windows.
ordered_json Gemma2Config(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  ordered_json config = LlamaConfig(run, vocab_size, eos_id);
  config["hidden_activation"] = "silu";
  config["query_pre_attn_scalar"] = run.model.hidden / run.model.num_heads;
  config["attn_logit_softcapping"] = nullptr;
  config["final_logit_softcapping"] = nullptr;
  config["layer_types"] = std::vector<std::string>(static_cast<size_t>(run.model.num_layers), "full_attention");
  return config;
}

/// Positions are learned, the head is the embedding, and its norms have biases; see families.h.
ordered_json Gpt2Config(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  return {{"vocab_size", vocab_size},
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

constexpr HuggingFaceClass kClasses[] = {
    {.architecture = "LlamaForCausalLM",
     .model_type = "llama",
     .family = "llama",
     .has_input_norm = true,
     .has_branch_norm = false,
     .config = LlamaConfig},
    {.architecture = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .family = "llama",
     .has_input_norm = true,
     .has_branch_norm = false,
     .qk_norm = QkNorm::kHead,
     .config = LlamaConfig},
    {.architecture = "Olmo2ForCausalLM",
     .model_type = "olmo2",
     .family = "llama",
     .has_input_norm = false,
     .has_branch_norm = true,
     .qk_norm = QkNorm::kFull,
     .config = LlamaConfig},
    {.architecture = "Gemma2ForCausalLM",
     .model_type = "gemma2",
     .family = "llama",
     .has_input_norm = true,
     .has_branch_norm = true,
     .config = Gemma2Config,
     .gain_offset = 1,
     .scales_embedding = true},
    {.architecture = "GPT2LMHeadModel",
     .model_type = "gpt2",
     .family = "gpt2",
     .has_input_norm = true,
     .has_branch_norm = false,
     .config = Gpt2Config},
};

/// The class whose blocks are most like this one, or null for a family without any.
const HuggingFaceClass* NearestClass(const std::string& family, const BlockPlan& plan) {
  const HuggingFaceClass* nearest = nullptr;
  int most = -1;
  for (const HuggingFaceClass& candidate : kClasses) {
    if (candidate.family != family) continue;
    const bool has_norms = candidate.has_input_norm == plan.attention.input_norm.has_value() &&
                           candidate.has_branch_norm == plan.attention.branch_norm.has_value();
    const bool has_qk_norm = candidate.qk_norm == plan.qkv_norms.query_key && !plan.qkv_norms.value;
    const int alike = 2 * static_cast<int>(has_norms) + static_cast<int>(has_qk_norm);
    if (alike > most) most = alike, nearest = &candidate;
  }
  return nearest;
}

/// What keeps a sublayer from being that of the class.
void CheckSublayer(const HuggingFaceClass& target, const SublayerPlan& plan, const char* name, int layer,
                   Reasons* reasons) {
  const auto add_if = [&](bool is_so, const std::string& reason) {
    if (is_so) reasons->Add(layer, reason);
  };
  add_if(target.has_input_norm && !plan.input_norm, fmt::format("{} has no norm on its input", name));
  add_if(!target.has_input_norm && plan.input_norm, fmt::format("{} has a norm on its input", name));
  add_if(target.has_branch_norm && !plan.branch_norm, fmt::format("no norm stands behind {}", name));
  add_if(!target.has_branch_norm && plan.branch_norm, fmt::format("a norm stands behind {}", name));
  add_if(plan.sum_norm.has_value(), fmt::format("a norm stands behind the residual sum of {}", name));
  for (const auto* norm : {&plan.input_norm, &plan.branch_norm}) {
    if (!*norm) continue;
    add_if((*norm)->kind == NormKind::kDyt, fmt::format("{} has a tanh where a norm would be", name));
    add_if((*norm)->eps_scale != 1, fmt::format("a norm of {} has an eps of its own", name));
    const bool is_layer_norm = (*norm)->kind == NormKind::kLayer;
    add_if(is_layer_norm && target.family == "llama", fmt::format("the norms of {} are LayerNorms", name));
  }
  add_if(plan.residual_scale != 1,
         fmt::format("the residual around {} is multiplied by {:.4g}", name, plan.residual_scale));
  add_if(plan.residual_is_normed, fmt::format("the residual around {} is the norm's output", name));
  add_if(plan.branch_norm && plan.branch_scale_kind != BranchScaleKind::kConstant,
         fmt::format("{} has a learned scale behind a norm", name));
  add_if(plan.sum_scale != 1, fmt::format("the sum behind {} is multiplied by {:.4g}", name, plan.sum_scale));
  add_if(plan.gate != Gate::kNone, fmt::format("a gate stands on the stream at {}", name));
}

void CheckQkNorm(const HuggingFaceClass& target, const QkvNorms& norms, int layer, Reasons* reasons) {
  if (norms.value) reasons->Add(layer, "the value has a norm");
  if (norms.query_key == target.qk_norm) return;
  if (target.qk_norm == QkNorm::kNone) {
    reasons->Add(layer, "query and key have norms");
  } else {
    const char* wanted = target.qk_norm == QkNorm::kHead ? "head" : "full";
    reasons->Add(layer, fmt::format("{} has norms on query and key as norm.qk_norm: {} makes them", target.architecture,
                                    wanted));
  }
}

/// Folds what a scheme multiplies by into the parameters that a class has.
class Folder {
 public:
  Folder(const HuggingFaceClass& target, const ModelSpec& model, const std::vector<BlockPlan>& plans)
      : target_(target), model_(model), family_(GetFamily(model.family)), plans_(plans) {}

  HuggingFaceModel::Array Fold(const ParameterInfo& info) const {
    HuggingFaceModel::Array array = {.name = info.name, .source = info.name, .shape = info.shape};
    if (info.is_embedding && target_.scales_embedding) array.scale = 1 / std::sqrt(static_cast<double>(model_.hidden));
    if (info.layer == 0) {
      if (info.name.starts_with(family_.final_norm)) array.offset = -target_.gain_offset;
      return array;
    }
    const BlockPlan& plan = plans_[static_cast<size_t>(info.layer) - 1];
    const std::string block = BlockPrefix(info.layer);
    for (const SublayerPlan* sublayer : {&plan.attention, &plan.ffn}) {
      for (const auto* norm : {&sublayer->input_norm, &sublayer->branch_norm}) {
        if (!*norm || !info.name.starts_with(fmt::format("{}{}.", block, (*norm)->name))) continue;
        // A bias is scaled too: the scale stands behind it.
        array.scale = (*norm)->output_scale * (norm == &sublayer->branch_norm ? sublayer->branch_scale : 1);
        array.offset = -target_.gain_offset;
      }
    }
    return array;
  }

  /// The scale of a branch goes into its last matrix, and into that one's bias.
  void FoldBranchScale(const ParameterInfo& matrix, std::vector<HuggingFaceModel::Array>* arrays) const {
    const bool is_attention = matrix.matrices.size() == 1 && matrix.matrices[0] == BlockMatrix::kOutput;
    const bool is_ffn = matrix.matrices.size() == 1 && matrix.matrices[0] == BlockMatrix::kDown;
    if (!is_attention && !is_ffn) return;
    const BlockPlan& plan = plans_[static_cast<size_t>(matrix.layer) - 1];
    const SublayerPlan& sublayer = is_attention ? plan.attention : plan.ffn;
    if (sublayer.branch_norm) return;  // It has the scale already.
    const std::string stem = matrix.name.substr(0, matrix.name.rfind('.') + 1);
    for (HuggingFaceModel::Array& array : *arrays) {
      if (!array.source.starts_with(stem)) continue;
      if (sublayer.branch_scale_kind == BranchScaleKind::kConstant) {
        array.scale = sublayer.branch_scale;
        continue;
      }
      array.output_scale = BlockPrefix(matrix.layer) + sublayer.branch_scale_name;
      array.output_scale_size = sublayer.branch_scale_kind == BranchScaleKind::kLearnedVector ? model_.hidden : 1;
      array.is_output_last = matrix.is_input_first || array.shape.size() == 1;
    }
  }

  bool IsFolded(const ParameterInfo& info) const {
    if (info.layer == 0) return false;
    const BlockPlan& plan = plans_[static_cast<size_t>(info.layer) - 1];
    for (const SublayerPlan* sublayer : {&plan.attention, &plan.ffn}) {
      if (info.name == BlockPrefix(info.layer) + sublayer->branch_scale_name) return true;
    }
    return false;
  }

 private:
  std::string BlockPrefix(int layer) const { return fmt::format("{}{}.", family_.blocks, layer - 1); }

  const HuggingFaceClass& target_;
  const ModelSpec& model_;
  const Family& family_;
  const std::vector<BlockPlan>& plans_;
};

}  // namespace

HuggingFaceModel ExpressForHuggingFace(const RunSpec& run, int64_t vocab_size, int64_t eos_id) {
  const ModelSpec& model = run.model;
  Reasons reasons;
  if (!run.norm.final_norm) reasons.Add(0, "there is no norm before the head");
  const NormScheme scheme = SchemeOf(run.norm);
  if (scheme.has_embed_scale || run.norm.embed_norm) reasons.Add(0, "the embedding has a scale or norm behind it");
  if (scheme.is_ngpt) reasons.Add(0, "the stream and all matrices are vectors of norm 1");
  if (RoundsStream(run.norm)) reasons.Add(0, "the stream is rounded to bfloat16 behind each sum");
  const std::vector<BlockPlan> plans = PlanBlocks(model, run.norm);
  const HuggingFaceClass* target = NearestClass(model.family, plans[0]);
  if (target == nullptr) {
    // The one family without a row.
    reasons.Add(0, "MiniMaxForCausalLM rotates whole heads and not half of each, and its experts turn no token away");
  } else {
    for (int layer = 1; layer <= model.num_layers; ++layer) {
      const BlockPlan& plan = plans[static_cast<size_t>(layer) - 1];
      CheckSublayer(*target, plan.attention, "attention", layer, &reasons);
      CheckSublayer(*target, plan.ffn, "the feed-forward network", layer, &reasons);
      CheckQkNorm(*target, plan.qkv_norms, layer, &reasons);
    }
  }
  if (!reasons.empty()) {
    throw NotExpressible(fmt::format("no class of transformers computes a {} model with {}: {}", model.family,
                                     run.norm.scheme, reasons.ToText()));
  }
  HuggingFaceModel result = {.architecture = std::string(target->architecture)};
  result.config = {{"architectures", {target->architecture}}, {"model_type", target->model_type}};
  result.config.update(target->config(run, vocab_size, eos_id));
  const Folder folder(*target, model, plans);
  const std::vector<ParameterInfo> infos = ListParameters(model, vocab_size, run.norm);
  for (const ParameterInfo& info : infos) {
    if (!folder.IsFolded(info)) result.arrays.push_back(folder.Fold(info));
  }
  for (const ParameterInfo& info : infos) folder.FoldBranchScale(info, &result.arrays);
  return result;
}

}  // namespace normlab::trainer
