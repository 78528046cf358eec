#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

// The normalization schemes as a table: a scheme is a row that the model reads, never a branch. In all formulas l is
// the 1-based block and L the number of blocks; A is attention with its output projection, F the SwiGLU network, N an
// RMSNorm with a gain of its own.
namespace normlab {

enum class NormPlacement {
  kPre,          // h = x + A(N1(x));      y = h + F(N2(h))
  kPost,         // h = N1(a x + A(x));    y = N2(a h + F(h)),  a: the residual scale
  kPostThenPre,  // The first floor(mix_ln_ratio * L) blocks are kPost, the others kPre.
};

/// The matrices of one block, in the order of Hugging Face's Llama.
enum class BlockMatrix { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown };
inline constexpr std::size_t kNumBlockMatrices = 7;

enum class InitFamily {
  kNormal,        // Normal(0, gain * init_std)
  kXavierNormal,  // Normal(0, gain * sqrt(2 / (fan_in + fan_out))); init_std plays no part.
};

/// A number that depends on the place of a block: l of L.
using DepthFunction = double (*)(double l, double L);

struct NormScheme {
  std::string_view name;
  NormPlacement placement;
  DepthFunction output_scale;    // The outputs of N1 and N2 are multiplied by it at forward time.
  DepthFunction residual_scale;  // kPost: `a` above. Not used by kPre.
  InitFamily init_family;
  DepthFunction branch_gain;  // Init gain of value, output, gate, up and down; query and key have gain 1.
  std::string_view paper;
};

namespace norm_scheme_internal {
inline constexpr DepthFunction kOne = [](double, double) { return 1.0; };
}  // namespace norm_scheme_internal

inline constexpr NormScheme kNormSchemes[] = {
    {.name = "pre_ln",
     .placement = NormPlacement::kPre,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .branch_gain = norm_scheme_internal::kOne,
     .paper = "arXiv:2002.04745"},
    {.name = "lns",
     .placement = NormPlacement::kPre,
     .output_scale = [](double l, double) { return 1.0 / std::sqrt(l); },
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .branch_gain = norm_scheme_internal::kOne,
     .paper = "arXiv:2502.05795, eq. 12"},
    {.name = "post_ln",
     .placement = NormPlacement::kPost,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .branch_gain = norm_scheme_internal::kOne,
     .paper = "arXiv:1706.03762"},
    // The decoder-only form of the paper. Some released comparisons invert the gain and fix the residual scale at L
    // = 32.
    {.name = "deepnorm",
     .placement = NormPlacement::kPost,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = [](double, double L) { return std::pow(2.0 * L, 0.25); },
     .init_family = InitFamily::kXavierNormal,
     .branch_gain = [](double, double L) { return std::pow(8.0 * L, -0.25); },
     .paper = "arXiv:2203.00555"},
    {.name = "mix_ln",
     .placement = NormPlacement::kPostThenPre,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .branch_gain = norm_scheme_internal::kOne,
     .paper = "arXiv:2412.13795"},
};

/// The row of that name, or null.
constexpr const NormScheme* FindNormScheme(std::string_view name) {
  for (const NormScheme& scheme : kNormSchemes) {
    if (scheme.name == name) return &scheme;
  }
  return nullptr;
}

struct MatrixInit {
  InitFamily family;
  double gain;

  /// Standard deviation of the weights at initialization.
  double Std(double init_std, std::int64_t fan_in, std::int64_t fan_out) const {
    const double unit_std =
        family == InitFamily::kNormal ? init_std : std::sqrt(2.0 / static_cast<double>(fan_in + fan_out));
    return gain * unit_std;
  }
};

/// A scheme resolved for one block: plain numbers.
struct BlockPlan {
  bool is_post;
  double attention_norm_scale;  // On the output of N1.
  double ffn_norm_scale;        // On the output of N2.
  double residual_scale;        // 1 for a Pre-LN block.
  std::array<MatrixInit, kNumBlockMatrices> init;

  const MatrixInit& Init(BlockMatrix matrix) const { return init[static_cast<std::size_t>(matrix)]; }
};

/// How many of the first blocks of kPostThenPre are Post-LN.
inline int NumPostBlocks(double mix_ln_ratio, int num_layers) {
  // 0.29 * 100 is 28.999999999999996 in binary: the reader of a spec means 29.
  return static_cast<int>(std::floor(mix_ln_ratio * num_layers + 1e-9));
}

/// The plan of block `layer` (1-based) of `num_layers`. `mix_ln_ratio` matters to kPostThenPre only.
inline BlockPlan PlanBlock(const NormScheme& scheme, int layer, int num_layers, double mix_ln_ratio) {
  const double l = layer;
  const double L = num_layers;
  const bool is_post = scheme.placement == NormPlacement::kPost || (scheme.placement == NormPlacement::kPostThenPre &&
                                                                    layer <= NumPostBlocks(mix_ln_ratio, num_layers));
  BlockPlan plan = {.is_post = is_post,
                    .attention_norm_scale = scheme.output_scale(l, L),
                    .ffn_norm_scale = scheme.output_scale(l, L),
                    .residual_scale = is_post ? scheme.residual_scale(l, L) : 1.0,
                    .init = {}};
  plan.init.fill({.family = scheme.init_family, .gain = scheme.branch_gain(l, L)});
  for (const BlockMatrix matrix : {BlockMatrix::kQuery, BlockMatrix::kKey}) {
    plan.init[static_cast<std::size_t>(matrix)].gain = 1.0;
  }
  return plan;
}

}  // namespace normlab
