#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "common/depth_expression.h"
#include "common/norm_scheme.h"

// A scheme resolved for one block of a model: plain numbers and names, no formula and no choice left.
namespace normlab {

/// y = output_scale * N(x) with the gain at gain_init in the beginning.
struct NormPlan {
  NormKind kind = NormKind::kRms;
  std::string name;  // Of the module inside its block.
  double output_scale = 1;
  double eps_scale = 1;  // N has eps_scale times the model's eps.
  double gain_init = 1;
  double alpha_init = 0;  // kDyt

  bool HasBias() const { return kind == NormKind::kLayer; }
  bool HasAlpha() const { return kind == NormKind::kDyt; }
};

/// Where GPAS (arXiv:2506.22049) lets the stream through: G(v) = v - silu(a) stopgrad(v), one learned a per block.
enum class Gate { kNone, kSum, kResidual };

/// n = Ni(x) or x;  r = x or n;  s = sum_scale (residual_scale G(r) + branch_scale Nb(branch(n)));  y = Ns(G(s)).
/// Norms that are absent are the identity; at most one of the Gs is there.
struct SublayerPlan {
  std::optional<NormPlan> input_norm;   // Ni
  std::optional<NormPlan> branch_norm;  // Nb
  std::optional<NormPlan> sum_norm;     // Ns
  BranchScaleKind branch_scale_kind = BranchScaleKind::kConstant;
  double branch_scale = 1;  // The constant, or where the learned one starts.
  std::string branch_scale_name;
  double residual_scale = 1;
  bool residual_is_normed = false;  // r = n
  double sum_scale = 1;
  Gate gate = Gate::kNone;
};

/// RMSNorms inside attention, before the rotation.
struct QkvNorms {
  QkNorm query_key = QkNorm::kNone;
  bool value = false;  // Per head.

  bool IsAny() const { return query_key != QkNorm::kNone || value; }
};

struct MatrixInit {
  InitFamily family = InitFamily::kNormal;
  double gain = 1;

  /// Standard deviation of the weights at initialization (before truncation, which takes 1.3 % off it).
  double Std(double init_std, std::int64_t hidden, std::int64_t fan_in, std::int64_t fan_out) const {
    if (family == InitFamily::kXavierNormal) return gain * std::sqrt(2.0 / static_cast<double>(fan_in + fan_out));
    if (family == InitFamily::kTruncatedMegatron) return gain * std::sqrt(2.0 / (5.0 * static_cast<double>(hidden)));
    return gain * init_std;
  }
  bool IsTruncated() const {
    return family == InitFamily::kTruncatedNormal || family == InitFamily::kTruncatedMegatron;
  }
};

struct BlockPlan {
  SublayerPlan attention;
  SublayerPlan ffn;
  QkvNorms qkv_norms;
  std::array<MatrixInit, kNumBlockMatrices> init;

  const MatrixInit& Init(BlockMatrix matrix) const { return init[static_cast<std::size_t>(matrix)]; }
};

/// What a model family calls the norms of a block that has one in each sublayer.
struct NormNames {
  std::string_view attention = "input_layernorm";
  std::string_view ffn = "post_attention_layernorm";
};

/// A spec of norms that no model can be built from; the message names the field below "norm.".
struct NormSpecError : std::runtime_error {
  NormSpecError(std::string_view which, const std::string& message)
      : std::runtime_error(fmt::format("norm.{}: {}", which, message)), field(which), problem(message) {}

  std::string field;
  std::string problem;
};

/// How many of the first blocks of mix_ln are Post-LN.
inline int NumPostBlocks(double mix_ln_ratio, int num_layers) {
  // 0.29 * 100 is 28.999999999999996 in binary: the reader of a spec means 29.
  return static_cast<int>(std::floor(mix_ln_ratio * num_layers + 1e-9));
}

namespace norm_plan_internal {

template <typename Value, std::size_t N>
const Value& Choice(const Named<Value> (&table)[N], std::string_view field, const std::string& name) {
  if (const Value* value = FindNamed(table, name)) return *value;
  std::string known;
  for (const Named<Value>& row : table) known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  throw NormSpecError(field, fmt::format("is \"{}\", must be one of {}", name, known));
}

/// A scheme's numbers at one block.
struct DepthNumbers {
  double output_scale;
  double residual_scale;
  double branch_scale;
  double init_gain;
};

inline DepthNumbers NumbersOfRow(const NormScheme& scheme, const NormSpec& spec, double l, double L) {
  const bool has_own_init = scheme.branch_scale_init != nullptr;
  return {.output_scale = scheme.output_scale(l, L),
          .residual_scale = scheme.residual_scale(l, L),
          .branch_scale = has_own_init ? scheme.branch_scale_init(l, L) : spec.layer_scale_init,
          .init_gain = scheme.init_gain(l, L)};
}

inline double Evaluate(std::string_view field, const std::string& text, const DepthVariables& variables) {
  try {
    const double value = DepthExpression(text)(variables);
    if (std::isfinite(value)) return value;
    throw NormSpecError(field, fmt::format("\"{}\" is {} at l = {}, L = {}, p = {}, q = {}", text, value, variables.l,
                                           variables.L, variables.p, variables.q));
  } catch (const DepthExpressionError& error) {
    throw NormSpecError(field, fmt::format("\"{}\", character {}: {}", text, error.offset + 1, error.what()));
  }
}

inline DepthNumbers NumbersOfCustom(const NormSpec& spec, double l, double L) {
  const DepthVariables variables = {.l = l, .L = L, .p = spec.p, .q = spec.q};
  return {.output_scale = Evaluate("output_scale", spec.output_scale, variables),
          .residual_scale = Evaluate("residual_scale", spec.residual_scale, variables),
          .branch_scale = Evaluate("branch_scale", spec.branch_scale, variables),
          .init_gain = Evaluate("init_gain", spec.init_gain, variables)};
}

inline NormScheme CustomScheme(const NormSpec& spec) {
  return {.name = kCustomScheme,
          .source = "the spec",
          .placement = Choice(kPlacements, "placement", spec.placement),
          .init_family = Choice(kInitFamilies, "init_family", spec.init_family),
          .init_gain_of = Choice(kInitGainSets, "init_gain_of", spec.init_gain_of)};
}

inline NormKind PlainKind(const NormSpec& spec, bool is_layer_norm) {
  return is_layer_norm ? NormKind::kLayer : Choice(kNormKinds, "kind", spec.kind);
}

inline SublayerPlan PlanSublayer(const NormScheme& scheme, const NormSites& sites, const NormSpec& spec,
                                 const DepthNumbers& numbers, bool is_attention) {
  const NormKind kind = scheme.kind.value_or(Choice(kNormKinds, "kind", spec.kind));
  const NormPlan norm = {.kind = kind, .alpha_init = is_attention ? spec.dyt_alpha_attention : spec.dyt_alpha_ffn};
  SublayerPlan plan;
  if (sites.input) plan.input_norm = norm;
  if (sites.branch) plan.branch_norm = norm;
  if (sites.sum) plan.sum_norm = norm;
  plan.branch_scale_kind = scheme.branch_scale;
  plan.branch_scale = numbers.branch_scale;
  plan.branch_scale_name = is_attention ? "attention_branch_scale" : "ffn_branch_scale";
  plan.residual_scale = numbers.residual_scale;
  plan.residual_is_normed = sites.residual_is_normed;
  if (spec.gpas) plan.gate = sites.sum ? Gate::kResidual : Gate::kSum;

  // The norm that gives the scheme its name: the first of the sublayer.
  NormPlan* main = plan.input_norm ? &*plan.input_norm : plan.branch_norm ? &*plan.branch_norm : nullptr;
  if (main == nullptr && plan.sum_norm) main = &*plan.sum_norm;
  const double scale = numbers.output_scale;
  const ScalePosition position = Choice(kScalePositions, "lns_position", spec.lns_position);
  if (position == ScalePosition::kAfterBranch) {
    plan.branch_scale *= scale;
  } else if (position == ScalePosition::kAfterResidual) {
    plan.sum_scale = scale;
  } else if (main != nullptr && position == ScalePosition::kBefore) {
    main->eps_scale = 1 / (scale * scale);  // N with eps of s x is N with eps / s^2 of x.
  } else if (main != nullptr && position == ScalePosition::kGainInit) {
    main->gain_init = scale;
  } else if (main != nullptr && position != (is_attention ? ScalePosition::kFfnOnly : ScalePosition::kAttentionOnly)) {
    main->output_scale = scale;
  }
  return plan;
}

/// Hugging Face's names: Gemma 2's where a sublayer has two norms, OLMo 2's where the branch's output alone is normed,
/// the family's otherwise.
inline void NameNorms(const NormNames& names, BlockPlan* block) {
  bool has_two = false, has_branch = false;
  for (const SublayerPlan* plan : {&block->attention, &block->ffn}) {
    has_two = has_two || (plan->input_norm && (plan->branch_norm || plan->sum_norm));
    has_branch = has_branch || plan->branch_norm;
  }
  const auto name = [](std::optional<NormPlan>* norm, std::string_view text) {
    if (*norm) (*norm)->name = text;
  };
  const bool has_one = !has_two && !has_branch;
  name(&block->attention.input_norm, has_one ? names.attention : "input_layernorm");
  name(&block->attention.branch_norm, "post_attention_layernorm");
  name(&block->attention.sum_norm, has_one ? names.attention : "post_attention_layernorm");
  name(&block->ffn.input_norm, has_one ? names.ffn : "pre_feedforward_layernorm");
  name(&block->ffn.branch_norm, "post_feedforward_layernorm");
  name(&block->ffn.sum_norm, has_one ? names.ffn : "post_feedforward_layernorm");
}

}  // namespace norm_plan_internal

/// The row of the spec's scheme, or a row made of what the spec itself says. Throws NormSpecError for an unknown one.
inline NormScheme SchemeOf(const NormSpec& spec) {
  if (spec.scheme == kCustomScheme) return norm_plan_internal::CustomScheme(spec);
  if (const NormScheme* scheme = FindNormScheme(spec.scheme)) return *scheme;
  std::string known;
  for (const NormScheme& scheme : kNormSchemes) known += fmt::format("{}{}", known.empty() ? "" : ", ", scheme.name);
  throw NormSpecError("scheme", fmt::format("is \"{}\": there are {} and {}", spec.scheme, known, kCustomScheme));
}

/// The plan of block `layer` (1-based) of `num_layers`. Throws NormSpecError for an expression that cannot be read or
/// is not finite here, and for parts that exclude each other.
inline BlockPlan PlanBlock(const NormSpec& spec, int layer, int num_layers, const NormNames& names = {}) {
  using namespace norm_plan_internal;  // NOLINT(build/namespaces)
  const NormScheme scheme = SchemeOf(spec);
  const DepthNumbers numbers = spec.scheme == kCustomScheme ? NumbersOfCustom(spec, layer, num_layers)
                                                            : NumbersOfRow(scheme, spec, layer, num_layers);
  const int num_first = scheme.first == FirstBlocks::kMixLnRatio ? NumPostBlocks(spec.mix_ln_ratio, num_layers)
                        : scheme.first == FirstBlocks::kOne      ? 1
                                                                 : 0;
  const Placement& placement = layer <= num_first ? scheme.first_placement : scheme.placement;
  BlockPlan plan = {.attention = PlanSublayer(scheme, placement.attention, spec, numbers, /*is_attention=*/true),
                    .ffn = PlanSublayer(scheme, placement.ffn, spec, numbers, /*is_attention=*/false)};
  NameNorms(names, &plan);
  const QkNorm qk_norm = Choice(kQkNorms, "qk_norm", spec.qk_norm);
  plan.qkv_norms = placement.attention.qkv ? QkvNorms{.query_key = QkNorm::kHead, .value = true}
                                           : QkvNorms{.query_key = qk_norm, .value = false};
  if ((placement.attention.qkv || scheme.is_ngpt) && qk_norm != QkNorm::kNone) {
    throw NormSpecError("qk_norm", fmt::format("is {}, but {} has norms of its own on query and key: use none",
                                               spec.qk_norm, spec.scheme));
  }
  if (scheme.is_ngpt && (spec.gpas || spec.embed_norm || spec.residual_dtype != "fp32")) {
    throw NormSpecError("scheme", "ngpt is complete in itself: it takes no gpas, embed_norm or residual_dtype");
  }
  for (std::size_t i = 0; i < kNumBlockMatrices; ++i) {
    const bool has_gain = scheme.init_gain_of.Has(static_cast<BlockMatrix>(i));
    plan.init[i] = {.family = scheme.init_family, .gain = has_gain ? numbers.init_gain : 1.0};
  }
  return plan;
}

/// The norm behind the last block; its name is the family's.
inline NormPlan PlanFinalNorm(const NormSpec& spec, bool is_layer_norm) {
  const NormKind kind = SchemeOf(spec).kind.value_or(norm_plan_internal::PlainKind(spec, is_layer_norm));
  return {.kind = kind, .name = {}, .alpha_init = spec.dyt_alpha_final};
}

/// The norm on the embedding's output, if the spec wants one.
inline std::optional<NormPlan> PlanEmbedNorm(const NormSpec& spec, bool is_layer_norm) {
  if (!spec.embed_norm) return std::nullopt;
  return NormPlan{.kind = norm_plan_internal::PlainKind(spec, is_layer_norm), .name = "model.embed_norm"};
}

/// Whether the stream is rounded after each residual sum.
inline bool RoundsStream(const NormSpec& spec) {
  return norm_plan_internal::Choice(kResidualDtypes, "residual_dtype", spec.residual_dtype) == ResidualDtype::kBf16;
}

}  // namespace normlab
