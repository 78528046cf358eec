#include "worker/trainer/model/parameters.h"

#include <fmt/format.h>

#include <utility>

#include "worker/trainer/model/families.h"
#include "worker/trainer/model/ngpt_scales.h"

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

std::vector<BlockPlan> PlanBlocks(const ModelSpec& model, const NormSpec& norm) {
  const Family& family = GetFamily(model.family);
  NormSpec own = norm;
  if (family.has_layer_norm) own.kind = "layernorm";
  std::vector<BlockPlan> plans;
  try {
    for (int layer = 1; layer <= model.num_layers; ++layer) {
      plans.push_back(PlanBlock(own, layer, model.num_layers, {family.attention_norm, family.ffn_norm}));
    }
    if (model.family != "llama" && (plans[0].qkv_norms.IsAny() || SchemeOf(norm).is_ngpt)) {
      throw NormSpecError("scheme", fmt::format("{} with qk_norm {} changes attention, which family {} cannot: use "
                                                "family llama",
                                                norm.scheme, norm.qk_norm, model.family));
    }
  } catch (const NormSpecError& error) {
    throw PermanentError(error.what());
  }
  return plans;
}

std::vector<BranchParameter> QkvNormParameters(const ModelSpec& model, const QkvNorms& norms) {
  const int64_t head_dim = model.hidden / model.num_heads;
  const int64_t dim = norms.query_key == QkNorm::kFull ? model.hidden : head_dim;
  std::vector<BranchParameter> parameters;
  if (norms.query_key != QkNorm::kNone) {
    parameters = {{"self_attn.q_norm.weight", {dim}}, {"self_attn.k_norm.weight", {dim}}};
  }
  if (norms.value) parameters.push_back({"self_attn.v_norm.weight", {head_dim}});
  return parameters;
}

namespace {

/// Collects the parameters of a model in order.
class Lister {
 public:
  explicit Lister(const ModelSpec& model) : model_(model) {}

  void AddEmbedding(std::string_view name, int64_t rows) {
    list_.push_back({fmt::format("{}.weight", name), {rows, model_.hidden}, 0});
    list_.back().is_embedding = true;
  }

  void AddVector(const std::string& name, int64_t size, int layer) { list_.push_back({name, {size}, layer}); }

  void AddNorm(const std::string& name, const NormPlan& norm, int layer) {
    AddVector(name + ".weight", model_.hidden, layer);
    if (norm.HasBias()) AddVector(name + ".bias", model_.hidden, layer);
    if (norm.HasAlpha()) AddVector(name + ".alpha", 1, layer);
  }

  void AddBranch(const std::string& prefix, const std::vector<BranchParameter>& parameters, int layer) {
    for (const BranchParameter& p : parameters) {
      list_.push_back({prefix + p.name, p.shape, layer, p.matrices, p.is_input_first});
    }
  }

  void AddAround(const std::string& prefix, const SublayerPlan& plan, int layer) {
    for (const auto* norm : {&plan.input_norm, &plan.branch_norm, &plan.sum_norm}) {
      if (*norm) AddNorm(prefix + (*norm)->name, **norm, layer);
    }
    if (plan.branch_scale_kind == BranchScaleKind::kConstant) return;
    const int64_t size = plan.branch_scale_kind == BranchScaleKind::kLearnedVector ? model_.hidden : 1;
    AddVector(prefix + plan.branch_scale_name, size, layer);
  }

  void AddHead(std::string_view name, int64_t vocab_size) {
    list_.push_back({fmt::format("{}.weight", name), {vocab_size, model_.hidden}, 0});
  }

  std::vector<ParameterInfo> Take() { return std::move(list_); }

 private:
  const ModelSpec& model_;
  std::vector<ParameterInfo> list_;
};

}  // namespace

std::vector<ParameterInfo> ListParameters(const ModelSpec& model, int64_t vocab_size, const NormSpec& norm) {
  const Family& family = GetFamily(model.family);
  const std::vector<BlockPlan> plans = PlanBlocks(model, norm);
  const NormScheme scheme = SchemeOf(norm);
  Lister lister(model);
  lister.AddEmbedding(family.embedding, vocab_size);
  if (!family.positions.empty()) lister.AddEmbedding(family.positions, model.max_positions);
  if (scheme.has_embed_scale) lister.AddVector("model.embed_scale", 1, 0);
  if (const auto embed_norm = PlanEmbedNorm(norm, family.has_layer_norm))
    lister.AddNorm(embed_norm->name, *embed_norm, 0);
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const BlockPlan& plan = plans[layer - 1];
    const std::string prefix = fmt::format("{}{}.", family.blocks, layer - 1);
    lister.AddBranch(prefix, family.attention(model, layer), layer);
    lister.AddBranch(prefix, QkvNormParameters(model, plan.qkv_norms), layer);
    lister.AddBranch(prefix, family.ffn(model), layer);
    if (scheme.is_ngpt) lister.AddBranch(prefix, NgptScales(model), layer);
    lister.AddAround(prefix, plan.attention, layer);
    lister.AddAround(prefix, plan.ffn, layer);
    if (plan.attention.gate != Gate::kNone) lister.AddVector(prefix + "gpas_gate", 1, layer);
  }
  if (norm.final_norm && !scheme.is_ngpt) {
    lister.AddNorm(std::string(family.final_norm), PlanFinalNorm(norm, family.has_layer_norm), 0);
  }
  if (!family.head.empty()) lister.AddHead(family.head, vocab_size);
  if (scheme.is_ngpt) lister.AddVector("sz", vocab_size, 0);
  return lister.Take();
}

int64_t CountParameters(const ModelSpec& model, int64_t vocab_size, const NormSpec& norm) {
  int64_t count = 0;
  for (const ParameterInfo& parameter : ListParameters(model, vocab_size, norm)) count += parameter.NumElements();
  return count;
}

}  // namespace normlab::trainer
