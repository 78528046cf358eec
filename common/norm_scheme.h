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

/// What a matrix of a block does, as far as schemes start them differently.
enum class BlockMatrix { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown, kOutputGate, kRouter };
inline constexpr std::size_t kNumBlockMatrices = 9;

/// A set of BlockMatrix.
struct MatrixSet {
  unsigned bits = 0;

  constexpr bool Has(BlockMatrix matrix) const { return (bits >> static_cast<unsigned>(matrix) & 1) != 0; }
};

template <typename... Matrix>
constexpr MatrixSet MatricesOf(Matrix... matrix) {
  return {((1u << static_cast<unsigned>(matrix)) | ... | 0u)};
}

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
  DepthFunction init_gain;  // Of the matrices in init_gain_of; the others have gain 1.
  MatrixSet init_gain_of;
  std::string_view paper;
};

namespace norm_scheme_internal {
inline constexpr DepthFunction kOne = [](double, double) { return 1.0; };

inline constexpr MatrixSet kBranchOutputs = MatricesOf(BlockMatrix::kOutput, BlockMatrix::kDown);
inline constexpr MatrixSet kAllButQueryAndKey =
    MatricesOf(BlockMatrix::kValue, BlockMatrix::kOutput, BlockMatrix::kGate, BlockMatrix::kUp, BlockMatrix::kDown);
}  // namespace norm_scheme_internal

inline constexpr NormScheme kNormSchemes[] = {
    {.name = "pre_ln",
     .placement = NormPlacement::kPre,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .init_gain = norm_scheme_internal::kOne,
     .init_gain_of = {},
     .paper = "arXiv:2002.04745"},
    {.name = "lns",
     .placement = NormPlacement::kPre,
     .output_scale = [](double l, double) { return 1.0 / std::sqrt(l); },
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .init_gain = norm_scheme_internal::kOne,
     .init_gain_of = {},
     .paper = "arXiv:2502.05795, eq. 12"},
    {.name = "post_ln",
     .placement = NormPlacement::kPost,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .init_gain = norm_scheme_internal::kOne,
     .init_gain_of = {},
     .paper = "arXiv:1706.03762"},
    // The decoder-only form of the paper. Some released comparisons invert the gain and fix the residual scale at L
    // = 32.
    {.name = "deepnorm",
     .placement = NormPlacement::kPost,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = [](double, double L) { return std::pow(2.0 * L, 0.25); },
     .init_family = InitFamily::kXavierNormal,
     .init_gain = [](double, double L) { return std::pow(8.0 * L, -0.25); },
     .init_gain_of = norm_scheme_internal::kAllButQueryAndKey,
     .paper = "arXiv:2203.00555"},
    {.name = "mix_ln",
     .placement = NormPlacement::kPostThenPre,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .init_gain = norm_scheme_internal::kOne,
     .init_gain_of = {},
     .paper = "arXiv:2412.13795"},
    // What GPT-2 and Megatron start from.
    {.name = "pre_ln_scaled_init",
     .placement = NormPlacement::kPre,
     .output_scale = norm_scheme_internal::kOne,
     .residual_scale = norm_scheme_internal::kOne,
     .init_family = InitFamily::kNormal,
     .init_gain = [](double, double L) { return 1.0 / std::sqrt(2.0 * L); },
     .init_gain_of = norm_scheme_internal::kBranchOutputs,
     .paper = "arXiv:1909.08053"},
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

/// A scheme resolved for one sublayer: n = Ni(x) or x, s = residual_scale x + branch(n), y = Ns(s) or s.
struct SublayerPlan {
  bool has_input_norm;      // Ni
  double input_norm_scale;  // On its output.
  double residual_scale;
  bool has_sum_norm;      // Ns
  double sum_norm_scale;  // On its output.
};

/// A scheme resolved for one block: plain numbers.
struct BlockPlan {
  SublayerPlan attention;
  SublayerPlan ffn;
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
  const double scale = scheme.output_scale(l, L);
  const SublayerPlan sublayer = {.has_input_norm = !is_post,
                                 .input_norm_scale = is_post ? 1.0 : scale,
                                 .residual_scale = is_post ? scheme.residual_scale(l, L) : 1.0,
                                 .has_sum_norm = is_post,
                                 .sum_norm_scale = is_post ? scale : 1.0};
  BlockPlan plan = {.attention = sublayer, .ffn = sublayer, .init = {}};
  for (std::size_t i = 0; i < kNumBlockMatrices; ++i) {
    const double gain = scheme.init_gain_of.Has(static_cast<BlockMatrix>(i)) ? scheme.init_gain(l, L) : 1.0;
    plan.init[i] = {.family = scheme.init_family, .gain = gain};
  }
  return plan;
}

}  // namespace normlab
