#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The normalization schemes as a table: a scheme is a row that the model reads (through common/norm_plan.h), never a
// branch. In all formulas l is the 1-based block and L the number of blocks; A is attention with its output projection,
// F the feed-forward network, N a norm with a gain of its own, x the stream.
namespace normlab {

/// What N is.
enum class NormKind {
  kRms,    // g x / sqrt(mean(x^2) + eps)                      arXiv:1910.07467
  kLayer,  // g (x - mean(x)) / sqrt(var(x) + eps) + b         arXiv:1607.06450
  kDyt,    // g tanh(a x), a: one learned scalar per place     arXiv:2503.10622
};

/// An RMSNorm on query and key before the rotation.
enum class QkNorm {
  kNone,
  kFull,  // Over the whole projected width (OLMo 2).
  kHead,  // Over each head, with one gain for all heads (Qwen3).
};

/// Where a scheme's output scale acts. All but kAfterNorm are the variants of arXiv:2502.05795, table 8.
enum class ScalePosition {
  kAfterNorm,      // A(s N(x)): what "lns" means.
  kAttentionOnly,  // As kAfterNorm, on attention's norm alone.
  kFfnOnly,        // As kAfterNorm, on the feed-forward network's norm alone.
  kBefore,         // A(N(s x)): changes nothing but the weight of eps.
  kAfterBranch,    // x + s A(N(x))
  kAfterResidual,  // s (x + A(N(x)))
  kGainInit,       // N's gain starts at s.
};

/// How the stream is kept after each residual sum.
enum class ResidualDtype { kFp32, kBf16 };

/// Where norms stand around one branch.
struct NormSites {
  bool input = false;               // The branch reads N(x).
  bool branch = false;              // N on the branch's output.
  bool sum = false;                 // N on residual plus branch.
  bool qkv = false;                 // Attention: an RMSNorm on each head of query, key and value.
  bool residual_is_normed = false;  // The residual is N(x), not x.
};

struct Placement {
  NormSites attention;
  NormSites ffn;
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
  kNormal,             // Normal(0, gain * init_std)
  kXavierNormal,       // Normal(0, gain * sqrt(2 / (fan_in + fan_out))); init_std plays no part.
  kTruncatedNormal,    // As kNormal, cut off at 3 deviations; also for the embedding and the head.
  kTruncatedMegatron,  // As kTruncatedNormal with sqrt(2 / (5 hidden)) for init_std.
};

/// A number that depends on the place of a block: l of L.
using DepthFunction = double (*)(double l, double L);

/// Which blocks have NormScheme::first_placement.
enum class FirstBlocks { kNone, kOne, kMixLnRatio };

/// A number by which a branch is multiplied before it joins the stream.
enum class BranchScaleKind {
  kConstant,
  kLearnedScalar,
  kLearnedVector,  // One per column.
};

namespace norm_scheme_internal {

inline constexpr DepthFunction kOne = [](double, double) { return 1.0; };
inline constexpr DepthFunction kInverseRootDepth = [](double l, double) { return 1.0 / std::sqrt(l); };
inline constexpr DepthFunction kInverseRootSublayers = [](double, double L) { return 1.0 / std::sqrt(2.0 * L); };

inline constexpr Placement kPre = {.attention = {.input = true}, .ffn = {.input = true}};
inline constexpr Placement kPost = {.attention = {.sum = true}, .ffn = {.sum = true}};
inline constexpr Placement kSandwich = {.attention = {.input = true, .branch = true},
                                        .ffn = {.input = true, .branch = true}};
inline constexpr Placement kReordered = {.attention = {.branch = true}, .ffn = {.branch = true}};
inline constexpr Placement kPreAndPost = {.attention = {.input = true, .sum = true},
                                          .ffn = {.input = true, .sum = true}};
inline constexpr Placement kHybrid = {.attention = {.qkv = true}, .ffn = {.input = true, .residual_is_normed = true}};
inline constexpr Placement kHybridStarFirst = {.attention = {.input = true, .qkv = true}, .ffn = {.input = true}};

inline constexpr MatrixSet kBranchOutputs = MatricesOf(BlockMatrix::kOutput, BlockMatrix::kDown);
inline constexpr MatrixSet kAllButQueryAndKey =
    MatricesOf(BlockMatrix::kValue, BlockMatrix::kOutput, BlockMatrix::kGate, BlockMatrix::kUp, BlockMatrix::kDown);

}  // namespace norm_scheme_internal

struct NormScheme {
  std::string_view name;
  std::string_view source;
  Placement placement = {};
  FirstBlocks first = FirstBlocks::kNone;
  Placement first_placement = {};
  DepthFunction output_scale = norm_scheme_internal::kOne;    // s of ScalePosition.
  DepthFunction residual_scale = norm_scheme_internal::kOne;  // a of N(a x + A(x)); only where the sum is normed.
  BranchScaleKind branch_scale = BranchScaleKind::kConstant;
  DepthFunction branch_scale_init = norm_scheme_internal::kOne;  // Null: NormSpec::layer_scale_init.
  InitFamily init_family = InitFamily::kNormal;
  DepthFunction init_gain = norm_scheme_internal::kOne;  // Of the matrices in init_gain_of; the others have gain 1.
  MatrixSet init_gain_of = {};
  std::optional<NormKind> kind = {};  // Instead of NormSpec::kind.
  bool has_embed_scale = false;       // One learned scalar on the embedding's output, init sqrt(hidden).
  bool is_ngpt = false;               // No norms at all, but vectors of norm 1 (worker/trainer/model/ngpt.h).
};

inline constexpr NormScheme kNormSchemes[] = {
    {.name = "pre_ln", .source = "arXiv:2002.04745", .placement = norm_scheme_internal::kPre},
    {.name = "lns",
     .source = "arXiv:2502.05795, eq. 12",
     .placement = norm_scheme_internal::kPre,
     .output_scale = norm_scheme_internal::kInverseRootDepth},
    {.name = "post_ln", .source = "arXiv:1706.03762", .placement = norm_scheme_internal::kPost},
    // The decoder-only form of the paper.
    {.name = "deepnorm",
     .source = "arXiv:2203.00555",
     .placement = norm_scheme_internal::kPost,
     .residual_scale = [](double, double L) { return std::pow(2.0 * L, 0.25); },
     .init_family = InitFamily::kXavierNormal,
     .init_gain = [](double, double L) { return std::pow(8.0 * L, -0.25); },
     .init_gain_of = norm_scheme_internal::kAllButQueryAndKey},
    // The baseline as some comparisons released it: a is that of L = 32 at every depth, and the gain is inverted.
    {.name = "deepnorm_mixln_release",
     .source = "pixeli99/MixLN, lmsdss/LayerNorm-Scaling: peft_pretraining/modeling_llama.py",
     .placement = norm_scheme_internal::kPost,
     .residual_scale = [](double, double) { return 2.8284; },
     .init_family = InitFamily::kXavierNormal,
     .init_gain = [](double, double L) { return std::pow(8.0 * L, 0.25); },
     .init_gain_of = norm_scheme_internal::kAllButQueryAndKey},
    {.name = "mix_ln",
     .source = "arXiv:2412.13795",
     .placement = norm_scheme_internal::kPre,
     .first = FirstBlocks::kMixLnRatio,
     .first_placement = norm_scheme_internal::kPost},
    // What GPT-2 and Megatron start from.
    {.name = "pre_ln_scaled_init",
     .source = "arXiv:1909.08053",
     .placement = norm_scheme_internal::kPre,
     .init_gain = norm_scheme_internal::kInverseRootSublayers,
     .init_gain_of = norm_scheme_internal::kBranchOutputs},
    {.name = "pre_ln_depth_init",
     .source = "arXiv:1908.11365",
     .placement = norm_scheme_internal::kPre,
     .init_gain = [](double l, double) { return 1.0 / std::sqrt(2.0 * l); },
     .init_gain_of = norm_scheme_internal::kBranchOutputs},
    {.name = "lns_scaled_init",
     .source = "arXiv:2502.05795, table 6",
     .placement = norm_scheme_internal::kPre,
     .output_scale = norm_scheme_internal::kInverseRootDepth,
     .init_gain = norm_scheme_internal::kInverseRootSublayers,
     .init_gain_of = norm_scheme_internal::kBranchOutputs},
    {.name = "layer_scale",
     .source = "arXiv:2103.17239",
     .placement = norm_scheme_internal::kPre,
     .branch_scale = BranchScaleKind::kLearnedVector,
     .branch_scale_init = nullptr},
    {.name = "skip_init",
     .source = "arXiv:2002.10444; arXiv:2502.05795, section 6",
     .placement = norm_scheme_internal::kPre,
     .branch_scale = BranchScaleKind::kLearnedScalar,
     .branch_scale_init = [](double, double L) { return 1.0 / std::sqrt(L); }},
    {.name = "sandwich", .source = "arXiv:2105.13290", .placement = norm_scheme_internal::kSandwich},
    {.name = "peri_ln", .source = "arXiv:2502.02732", .placement = norm_scheme_internal::kSandwich},
    {.name = "olmo2",
     .source = "arXiv:2501.00656",
     .placement = norm_scheme_internal::kReordered,
     .init_family = InitFamily::kTruncatedNormal},
    {.name = "hybrid_norm",
     .source = "arXiv:2503.04598",
     .placement = norm_scheme_internal::kHybrid,
     .init_family = InitFamily::kTruncatedMegatron,
     .init_gain = norm_scheme_internal::kInverseRootSublayers,
     .init_gain_of = norm_scheme_internal::kBranchOutputs},
    {.name = "hybrid_norm_star",
     .source = "arXiv:2503.04598",
     .placement = norm_scheme_internal::kHybrid,
     .first = FirstBlocks::kOne,
     .first_placement = norm_scheme_internal::kHybridStarFirst,
     .init_family = InitFamily::kTruncatedMegatron,
     .init_gain = norm_scheme_internal::kInverseRootSublayers,
     .init_gain_of = norm_scheme_internal::kBranchOutputs},
    {.name = "dyt",
     .source = "arXiv:2503.10622",
     .placement = norm_scheme_internal::kPre,
     .kind = NormKind::kDyt,
     .has_embed_scale = true},
    {.name = "keel",
     .source = "arXiv:2601.19895",
     .placement = norm_scheme_internal::kPreAndPost,
     .residual_scale = [](double, double L) { return 2.0 * L; }},
    {.name = "ngpt", .source = "arXiv:2410.01131", .is_ngpt = true},
};

/// The row of that name, or null.
constexpr const NormScheme* FindNormScheme(std::string_view name) {
  for (const NormScheme& scheme : kNormSchemes) {
    if (scheme.name == name) return &scheme;
  }
  return nullptr;
}

/// The scheme that a spec writes itself.
inline constexpr std::string_view kCustomScheme = "custom";

template <typename Value>
struct Named {
  std::string_view name;
  Value value;
};

inline constexpr Named<NormKind> kNormKinds[] = {{"rmsnorm", NormKind::kRms}, {"layernorm", NormKind::kLayer}};
inline constexpr Named<QkNorm> kQkNorms[] = {{"none", QkNorm::kNone}, {"full", QkNorm::kFull}, {"head", QkNorm::kHead}};
inline constexpr Named<ScalePosition> kScalePositions[] = {
    {"after_norm", ScalePosition::kAfterNorm},     {"attn_only", ScalePosition::kAttentionOnly},
    {"ffn_only", ScalePosition::kFfnOnly},         {"before", ScalePosition::kBefore},
    {"after_branch", ScalePosition::kAfterBranch}, {"after_residual", ScalePosition::kAfterResidual},
    {"gain_init", ScalePosition::kGainInit}};
inline constexpr Named<ResidualDtype> kResidualDtypes[] = {{"fp32", ResidualDtype::kFp32},
                                                           {"bf16", ResidualDtype::kBf16}};
inline constexpr Named<Placement> kPlacements[] = {{"pre", norm_scheme_internal::kPre},
                                                   {"post", norm_scheme_internal::kPost},
                                                   {"sandwich", norm_scheme_internal::kSandwich},
                                                   {"reordered", norm_scheme_internal::kReordered},
                                                   {"pre_and_post", norm_scheme_internal::kPreAndPost}};
inline constexpr Named<InitFamily> kInitFamilies[] = {{"normal", InitFamily::kNormal},
                                                      {"xavier", InitFamily::kXavierNormal},
                                                      {"truncated", InitFamily::kTruncatedNormal}};
inline constexpr Named<MatrixSet> kInitGainSets[] = {{"outputs", norm_scheme_internal::kBranchOutputs},
                                                     {"all_but_query_key", norm_scheme_internal::kAllButQueryAndKey}};

/// The value of that name in one of the tables above, or null.
template <typename Value, std::size_t N>
constexpr const Value* FindNamed(const Named<Value> (&table)[N], std::string_view name) {
  for (const Named<Value>& row : table) {
    if (row.name == name) return &row.value;
  }
  return nullptr;
}

/// What a user says about norms: NormSpec of experiment.proto, where each field is documented, with its defaults.
/// Choices are texts from the tables above.
struct NormSpec {
  std::string scheme = "pre_ln";
  double mix_ln_ratio = 0.25;
  bool final_norm = true;
  std::string kind = "rmsnorm";
  std::string qk_norm = "none";
  std::string lns_position = "after_norm";
  bool gpas = false;
  bool embed_norm = false;
  double layer_scale_init = 0.001;
  double dyt_alpha_attention = 0.8;
  double dyt_alpha_ffn = 0.2;
  double dyt_alpha_final = 0.2;
  std::string residual_dtype = "fp32";
  std::string placement = "pre";
  std::string output_scale = "1";
  std::string residual_scale = "1";
  std::string branch_scale = "1";
  std::string init_gain = "1";
  std::string init_gain_of = "outputs";
  std::string init_family = "normal";
  double p = 0;
  double q = 0;
};

}  // namespace normlab
