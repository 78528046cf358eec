#include "worker/trainer/model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/model/portable.h"
#include "worker/trainer/model/testing/reference_model.h"

namespace normlab::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kVocab = 50;

ModelSpec SmallModel() {
  return {.family = "llama",
          .num_layers = 5,
          .hidden = 24,
          .num_heads = 3,
          .ffn_hidden = 20,
          .rope_base = 10000,
          .norm_eps = 1e-6,
          .init_std = 0.1,
          .embed_init_std = 0.5};
}

NormSpec Scheme(const std::string& name) { return {.scheme = name, .mix_ln_ratio = 0.5}; }

at::Generator Random(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

struct Batch {
  at::Tensor inputs;
  at::Tensor targets;
};

/// More rows than one chunk of the kernels, and not a multiple of it.
Batch SmallBatch(int64_t vocab = kVocab) {
  return {at::randint(vocab, {5, 19}, Random(1), at::kLong), at::randint(vocab, {5, 19}, Random(2), at::kLong)};
}

/// Gains away from 1, so that a gain in the wrong place is seen.
void ShakeGains(const Transformer& transformer) {
  for (const Parameter& parameter : transformer.parameters()) {
    if (parameter.tensor.dim() == 1) {
      parameter.tensor.detach().add_(0.3 * at::randn(parameter.tensor.sizes(), Random(3), at::kDouble));
    }
  }
}

testing::Weights CopyWeights(const Transformer& transformer) {
  testing::Weights weights;
  for (const Parameter& parameter : transformer.parameters()) {
    weights[parameter.name] = parameter.tensor.detach().to(at::kDouble, false, /*copy=*/true).requires_grad_();
  }
  return weights;
}

double RelativeError(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

/// With the columns of ReferenceResult::layer_stats.
at::Tensor RowsOf(const LayerForwardStats& stats) {
  std::vector<at::Tensor> rows;
  for (const BlockStats& block : stats.blocks) {
    const TokenStats& y = block.output;
    rows.push_back(at::tensor({y.variance, y.variance_median, y.mean_square, y.max_abs, block.attention.variance,
                               block.attention.mean_square, block.ffn.variance, block.ffn.mean_square},
                              at::kDouble));
  }
  return at::stack(rows);
}

void ExpectEqualsReference(const ModelSpec& model, const NormSpec& norm, int64_t vocab, at::ScalarType dtype,
                           double tolerance) {
  const Transformer transformer(model, norm, vocab, /*seed=*/7, dtype);
  ShakeGains(transformer);
  const testing::Weights weights = CopyWeights(transformer);
  const Batch batch = SmallBatch(vocab);

  LayerForwardStats stats;
  const at::Tensor loss = transformer.Loss(batch.inputs, batch.targets, &stats);
  loss.backward();
  const testing::ReferenceResult expected = testing::RunReference(model, norm, weights, batch.inputs, batch.targets);
  expected.loss.backward();

  EXPECT_NEAR(loss.item<double>(), expected.loss.item<double>(), tolerance * 10);
  EXPECT_LT(RelativeError(transformer.Logits(batch.inputs), expected.logits), tolerance);
  for (const Parameter& parameter : transformer.parameters()) {
    ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    // The gradient of a single number is a sum of terms of both signs: its rounding is relative to them, not to the
    // sum.
    const double allowed = parameter.tensor.numel() == 1 && dtype == at::kFloat ? 50 * tolerance : tolerance;
    EXPECT_LT(RelativeError(parameter.tensor.grad(), weights.at(parameter.name).grad()), allowed) << parameter.name;
  }
  for (int column = 0; column < 8; ++column) {
    EXPECT_LT(RelativeError(RowsOf(stats).select(1, column), expected.layer_stats.select(1, column)), 1e-5) << column;
  }
}

struct Case {
  std::string name;
  NormSpec norm;
};

void PrintTo(const Case& scheme, std::ostream* out) { *out << scheme.name; }

/// Every row of the table, every variant of a row, and what goes with each.
std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const NormScheme& scheme : kNormSchemes)
    cases.push_back({std::string(scheme.name), Scheme(std::string(scheme.name))});
  for (const auto& position : kScalePositions) {
    cases.push_back({fmt::format("lns_{}", position.name), Scheme("lns")});
    cases.back().norm.lns_position = position.name;
  }
  for (const char* scheme : {"pre_ln", "lns", "post_ln", "deepnorm", "mix_ln", "sandwich"}) {
    cases.push_back({fmt::format("{}_gpas", scheme), Scheme(scheme)});
    cases.back().norm.gpas = true;
  }
  for (const char* scheme : {"pre_ln", "olmo2"}) {
    for (const char* qk_norm : {"full", "head"}) {
      cases.push_back({fmt::format("{}_qk_{}", scheme, qk_norm), Scheme(scheme)});
      cases.back().norm.qk_norm = qk_norm;
    }
  }
  for (const char* scheme : {"pre_ln", "post_ln", "sandwich"}) {
    cases.push_back({fmt::format("{}_layernorm", scheme), Scheme(scheme)});
    cases.back().norm.kind = "layernorm";
  }
  cases.push_back({"peri_ln_embed_norm", Scheme("peri_ln")});
  cases.back().norm.embed_norm = true;
  return cases;
}

class SchemeTest : public ::testing::TestWithParam<Case> {};

TEST_P(SchemeTest, EqualsTheFormulaInFloat64ForwardAndGradient) {
  ExpectEqualsReference(SmallModel(), GetParam().norm, kVocab, at::kDouble, 1e-10);
}

TEST_P(SchemeTest, EqualsTheFormulaInFloat32UpToItsPrecision) {
  ExpectEqualsReference(SmallModel(), GetParam().norm, kVocab, at::kFloat, 3e-5);
}

TEST_P(SchemeTest, ComputesTheSameWithoutOwnKernels) {
  const PortableOnly portable;
  ExpectEqualsReference(SmallModel(), GetParam().norm, kVocab, at::kDouble, 1e-10);
}

TEST_P(SchemeTest, InBfloat16StaysNearItsFloat32SelfWithTheSameRoundedWeights) {
  if (GetParam().norm.scheme == "ngpt") GTEST_SKIP() << "unit vectors of 24 numbers keep no digits in bfloat16";
  const ModelSpec model = SmallModel();
  const Transformer narrow(model, GetParam().norm, kVocab, /*seed=*/7, at::kBFloat16);
  const Transformer wide(model, GetParam().norm, kVocab, /*seed=*/7);
  for (size_t i = 0; i < wide.parameters().size(); ++i) {
    wide.parameters()[i].tensor.detach().copy_(narrow.parameters()[i].tensor.detach());
  }
  const Batch batch = SmallBatch();
  const at::Tensor loss = narrow.Loss(batch.inputs, batch.targets), expected = wide.Loss(batch.inputs, batch.targets);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 0.02 * expected.item<double>());
  loss.backward();
  expected.backward();
  std::vector<at::Tensor> actual, wanted;
  for (const Parameter& p : narrow.parameters()) actual.push_back(p.tensor.grad().to(at::kDouble).flatten());
  for (const Parameter& p : wide.parameters()) wanted.push_back(p.tensor.grad().to(at::kDouble).flatten());
  EXPECT_LT(RelativeError(at::cat(actual), at::cat(wanted)), 0.1);
}

TEST_P(SchemeTest, EqualsTheFormulaWithoutAFinalNorm) {
  NormSpec norm = GetParam().norm;
  norm.final_norm = false;
  ExpectEqualsReference(SmallModel(), norm, kVocab, at::kDouble, 1e-10);
}

TEST_P(SchemeTest, GradientEqualsFiniteDifferencesOfTheLoss) {
  if (GetParam().norm.gpas) GTEST_SKIP() << "a gate's gradient is not the slope of its forward";
  const Transformer transformer(SmallModel(), GetParam().norm, kVocab, 7, at::kDouble);
  ShakeGains(transformer);
  const Batch batch = SmallBatch();
  transformer.Loss(batch.inputs, batch.targets).backward();
  const double step = 1e-5;
  for (const Parameter& parameter : transformer.parameters()) {
    const at::Tensor weight = parameter.tensor.detach();
    // In the weights' own size: a step that is large beside them would measure the curvature as well.
    const double size = weight.norm().item<double>() / std::sqrt(static_cast<double>(weight.numel()));
    const at::Tensor direction = at::randn(weight.sizes(), Random(4), at::kDouble) * std::max(size, 1e-2);
    weight.add_(direction, step);
    const double above = transformer.Loss(batch.inputs, batch.targets).item<double>();
    weight.sub_(direction, 2 * step);
    const double below = transformer.Loss(batch.inputs, batch.targets).item<double>();
    weight.add_(direction, step);
    const double slope = (parameter.tensor.grad() * direction).sum().item<double>();
    EXPECT_NEAR((above - below) / (2 * step), slope, 1e-7 + 1e-5 * std::abs(slope)) << parameter.name;
  }
}

TEST_P(SchemeTest, SameSeedTwiceGivesTheSameBits) {
  const auto run = [&](uint64_t seed) {
    const Transformer transformer(SmallModel(), GetParam().norm, kVocab, seed);
    const Batch batch = SmallBatch();
    transformer.Loss(batch.inputs, batch.targets).backward();
    std::vector<at::Tensor> flat;
    for (const Parameter& parameter : transformer.parameters()) flat.push_back(parameter.tensor.grad().flatten());
    return at::cat(flat);
  };
  EXPECT_TRUE(at::equal(run(1), run(1)));
  EXPECT_FALSE(at::equal(run(1), run(2)));
}

TEST_P(SchemeTest, StatisticsChangeNeitherLossNorGradient) {
  const Transformer transformer(SmallModel(), GetParam().norm, kVocab, 1);
  const Batch batch = SmallBatch();
  const auto gradient_of = [&](LayerForwardStats* stats) {
    const at::Tensor weight = transformer.parameters()[1].tensor;
    weight.mutable_grad().reset();
    transformer.Loss(batch.inputs, batch.targets, stats).backward();
    return weight.grad().clone();
  };
  LayerForwardStats stats;
  EXPECT_TRUE(at::equal(gradient_of(nullptr), gradient_of(&stats)));
  EXPECT_EQ(stats.blocks.size(), 5u);
}

TEST(StatisticsTest, AreOfPositionsWithATargetAlone) {
  const Transformer transformer(SmallModel(), Scheme("pre_ln"), kVocab, 1, at::kDouble);
  const Batch batch = SmallBatch();
  const at::Tensor padded = batch.targets.clone();
  padded.narrow(1, 7, 12).fill_(kIgnoredTarget);
  LayerForwardStats short_rows, with_pads;
  transformer.Loss(batch.inputs.narrow(1, 0, 7), batch.targets.narrow(1, 0, 7), &short_rows);
  transformer.Loss(batch.inputs, padded, &with_pads);
  EXPECT_LT(RelativeError(RowsOf(with_pads), RowsOf(short_rows)), 1e-12) << "attention is causal: pads come behind";
}

TEST(StatisticsTest, SayHowMuchGradientEachBoundaryOfTheStreamHas) {
  for (const char* scheme : {"post_ln", "ngpt"}) {
    const Transformer transformer(SmallModel(), Scheme(scheme), kVocab, 1, at::kDouble);
    const Batch batch = SmallBatch();
    LayerForwardStats stats;
    transformer.Loss(batch.inputs, batch.targets, &stats).backward();
    at::Tensor x = transformer.Embed(batch.inputs).detach().requires_grad_();
    std::vector<at::Tensor> boundaries = {x};
    for (int layer = 1; layer <= 5; ++layer) boundaries.push_back(x = transformer.RunBlock(layer, x, 19));
    for (const at::Tensor& boundary : boundaries) boundary.retain_grad();
    transformer.StreamLoss(x, batch.targets).backward();
    ASSERT_EQ(stats.stream_grad_norms->size(), 6u);
    for (size_t i = 0; i < boundaries.size(); ++i) {
      const double expected = boundaries[i].grad().norm().item<double>();
      EXPECT_NEAR(stats.stream_grad_norms->at(i), expected, 1e-12 * expected) << scheme << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SchemeTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return info.param.name; });

TEST(TransformerTest, LnsBeforeTheNormIsPreLn) {
  NormSpec before = Scheme("lns");
  before.lns_position = "before";
  const Batch batch = SmallBatch();
  const Transformer actual(SmallModel(), before, kVocab, 7, at::kDouble);
  const Transformer pre_ln(SmallModel(), Scheme("pre_ln"), kVocab, 7, at::kDouble);
  EXPECT_LT(RelativeError(actual.Logits(batch.inputs), pre_ln.Logits(batch.inputs)), 1e-5);
}

TEST(TransformerTest, LnsFoldedIntoTheGainsIsLnsAtInit) {
  NormSpec folded = Scheme("lns");
  folded.lns_position = "gain_init";
  const Batch batch = SmallBatch();
  const Transformer actual(SmallModel(), folded, kVocab, 7, at::kDouble);
  const Transformer lns(SmallModel(), Scheme("lns"), kVocab, 7, at::kDouble);
  EXPECT_LT(RelativeError(actual.Logits(batch.inputs), lns.Logits(batch.inputs)), 1e-12);
}

TEST(TransformerTest, AClosedGpasGateChangesNothing) {
  for (const NormScheme& scheme : kNormSchemes) {
    if (scheme.is_ngpt) continue;
    NormSpec norm = Scheme(std::string(scheme.name));
    const Batch batch = SmallBatch();
    const Transformer base(SmallModel(), norm, kVocab, 7, at::kDouble);
    norm.gpas = true;
    const Transformer gated(SmallModel(), norm, kVocab, 7, at::kDouble);
    EXPECT_TRUE(at::equal(gated.Logits(batch.inputs), base.Logits(batch.inputs))) << scheme.name;
  }
}

TEST(TransformerTest, NgptKeepsItsMatricesOnTheSphere) {
  Transformer transformer(SmallModel(), Scheme("ngpt"), kVocab, 7, at::kDouble);
  const auto expect_units = [&] {
    for (const Parameter& parameter : transformer.parameters()) {
      if (parameter.tensor.dim() != 2) continue;
      const bool is_output =
          parameter.name.find("o_proj") != std::string::npos || parameter.name.find("down_proj") != std::string::npos;
      const at::Tensor norms = parameter.tensor.detach().norm(2, {is_output ? 0 : 1});
      EXPECT_LT((norms - 1).abs().max().item<double>(), 1e-12) << parameter.name;
    }
  };
  expect_units();
  for (const Parameter& parameter : transformer.parameters()) parameter.tensor.detach().mul_(1.7).add_(0.01);
  transformer.AfterUpdate();
  expect_units();
}

TEST(TransformerTest, ABfloat16StreamIsRoundedAfterEachSum) {
  NormSpec norm = Scheme("pre_ln");
  norm.residual_dtype = "bf16";
  const Transformer transformer(SmallModel(), norm, kVocab, 7);
  const Transformer exact(SmallModel(), Scheme("pre_ln"), kVocab, 7);
  const Batch batch = SmallBatch();
  const c10::NoGradGuard no_grad;
  const at::Tensor x = transformer.RunBlock(1, transformer.Embed(batch.inputs), batch.inputs.size(1));
  EXPECT_TRUE(at::equal(x, x.to(at::kBFloat16).to(at::kFloat)));
  const double error = RelativeError(transformer.Logits(batch.inputs), exact.Logits(batch.inputs).to(at::kDouble));
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 2e-2);
}

TEST(TransformerTest, TheGradientPassesTheRoundingOfTheStream) {
  NormSpec norm = Scheme("pre_ln");
  norm.residual_dtype = "bf16";
  ExpectEqualsReference(SmallModel(), norm, kVocab, at::kDouble, 1e-10);
}

TEST(TransformerTest, ACustomSchemeIsTheRowThatItWrites) {
  NormSpec lns = Scheme("custom");
  lns.output_scale = "l^-p", lns.p = 0.5;
  NormSpec deepnorm = Scheme("custom");
  deepnorm.placement = "post", deepnorm.residual_scale = "(2*L)^0.25";
  deepnorm.init_gain = "(8*L)^-0.25", deepnorm.init_gain_of = "all_but_query_key", deepnorm.init_family = "xavier";
  const Batch batch = SmallBatch();
  for (const auto& [custom, name] : {std::pair(lns, "lns"), {deepnorm, "deepnorm"}}) {
    const Transformer actual(SmallModel(), custom, kVocab, 7);
    const Transformer row(SmallModel(), Scheme(name), kVocab, 7);
    EXPECT_TRUE(at::equal(actual.Logits(batch.inputs), row.Logits(batch.inputs))) << name;
  }
}

TEST(TransformerTest, LossOverSeveralPiecesOfLogitsEqualsTheFormula) {
  ModelSpec model = SmallModel();
  model.num_layers = 1;
  ExpectEqualsReference(model, Scheme("pre_ln"), /*vocab=*/20000, at::kDouble, 1e-10);
}

TEST(TransformerTest, LnsIsPreLnWhoseGainsAreOverTheRootOfTheOneBasedLayer) {
  const Transformer lns(SmallModel(), Scheme("lns"), kVocab, 7, at::kDouble);
  const Transformer pre_ln(SmallModel(), Scheme("pre_ln"), kVocab, 7, at::kDouble);
  for (const Parameter& parameter : pre_ln.parameters()) {
    if (parameter.layer > 0 && parameter.tensor.dim() == 1) parameter.tensor.detach().div_(std::sqrt(parameter.layer));
  }
  const Batch batch = SmallBatch();
  EXPECT_LT(RelativeError(lns.Logits(batch.inputs), pre_ln.Logits(batch.inputs)), 1e-12);
}

TEST(TransformerTest, MixLnTurnsFromPostToPreAfterTheFloorOfTheRatio) {
  ModelSpec model = SmallModel();
  model.num_layers = 12;
  const Transformer transformer(model, {.scheme = "mix_ln", .mix_ln_ratio = 0.25}, kVocab, 7);
  const Batch batch = SmallBatch();
  LayerForwardStats stats;
  transformer.Loss(batch.inputs, batch.targets, &stats);
  // A Post-LN block ends in a norm, so its output has mean square 1; behind it the stream grows.
  for (int layer = 1; layer <= 12; ++layer) {
    const double mean_square = stats.blocks[layer - 1].output.mean_square;
    if (layer <= 3) {
      EXPECT_NEAR(mean_square, 1, 1e-3) << layer;
    } else {
      EXPECT_GT(mean_square, 1.002) << layer;
    }
  }
}

TEST(TransformerTest, ArmsOfAnAblationStartFromTheSameWeights) {
  const Transformer pre_ln(SmallModel(), Scheme("pre_ln"), kVocab, 7);
  const Transformer lns(SmallModel(), Scheme("lns"), kVocab, 7);
  const Transformer deepnorm(SmallModel(), Scheme("deepnorm"), kVocab, 7);
  for (size_t i = 0; i < pre_ln.parameters().size(); ++i) {
    const at::Tensor& weight = pre_ln.parameters()[i].tensor;
    EXPECT_TRUE(at::equal(lns.parameters()[i].tensor, weight)) << pre_ln.parameters()[i].name;
    // Another deviation scales the same draws.
    const at::Tensor& other = deepnorm.parameters()[i].tensor;
    const double scale = (other.norm() / weight.norm()).item<double>();
    EXPECT_TRUE(at::allclose(other, weight * scale, 1e-5)) << pre_ln.parameters()[i].name;
  }
}

double MeasuredStd(const Transformer& transformer, const std::string& name) {
  for (const Parameter& parameter : transformer.parameters()) {
    if (parameter.name == name) return parameter.tensor.detach().std().item<double>();
  }
  ADD_FAILURE() << name;
  return 0;
}

TEST(TransformerTest, InitialDeviationsAreThoseOfTheSpec) {
  ModelSpec model = SmallModel();
  model.hidden = 96, model.ffn_hidden = 160, model.init_std = 0.02, model.embed_init_std = 0.632;
  for (const char* scheme : {"pre_ln", "lns", "post_ln", "mix_ln"}) {
    const Transformer transformer(model, Scheme(scheme), 500, 7);
    EXPECT_NEAR(MeasuredStd(transformer, "model.embed_tokens.weight"), 0.632, 0.632 * 0.02);
    for (const char* name : {"model.layers.0.self_attn.q_proj.weight", "model.layers.2.self_attn.k_proj.weight",
                             "model.layers.2.self_attn.v_proj.weight", "model.layers.2.self_attn.o_proj.weight",
                             "model.layers.4.mlp.gate_proj.weight", "model.layers.4.mlp.up_proj.weight",
                             "model.layers.4.mlp.down_proj.weight", "lm_head.weight"}) {
      EXPECT_NEAR(MeasuredStd(transformer, name), 0.02, 0.02 * 0.03) << scheme << " " << name;
    }
  }
}

TEST(TransformerTest, DeepNormInitIsXavierWithThePapersGainOnValueOutputAndFfn) {
  ModelSpec model = SmallModel();
  model.num_layers = 12, model.hidden = 96, model.ffn_hidden = 160;
  const Transformer transformer(model, Scheme("deepnorm"), 500, 7);
  const double square = std::sqrt(2.0 / (96 + 96)), ffn = std::sqrt(2.0 / (96 + 160)), beta = std::pow(96, -0.25);
  const std::pair<const char*, double> expected[] = {
      {"self_attn.q_proj", square},        {"self_attn.k_proj", square},  {"self_attn.v_proj", square * beta},
      {"self_attn.o_proj", square * beta}, {"mlp.gate_proj", ffn * beta}, {"mlp.up_proj", ffn * beta},
      {"mlp.down_proj", ffn * beta}};
  for (const auto& [name, std] : expected) {
    for (const char* layer : {"0", "11"}) {
      const std::string full_name = std::string("model.layers.") + layer + "." + name + ".weight";
      EXPECT_NEAR(MeasuredStd(transformer, full_name), std, std * 0.03) << full_name;
    }
  }
}

TEST(TransformerTest, ScaledInitStartsBothOutputProjectionsSmaller) {
  ModelSpec model = SmallModel();
  model.num_layers = 8, model.hidden = 96, model.ffn_hidden = 160, model.init_std = 0.02;
  const Transformer transformer(model, Scheme("pre_ln_scaled_init"), 500, 7);
  for (const char* layer : {"0", "7"}) {
    const std::string prefix = std::string("model.layers.") + layer;
    for (const char* name : {".self_attn.o_proj.weight", ".mlp.down_proj.weight"}) {
      EXPECT_NEAR(MeasuredStd(transformer, prefix + name), 0.005, 0.005 * 0.03) << name;
    }
    for (const char* name : {".self_attn.q_proj.weight", ".self_attn.v_proj.weight", ".mlp.up_proj.weight"}) {
      EXPECT_NEAR(MeasuredStd(transformer, prefix + name), 0.02, 0.02 * 0.03) << name;
    }
  }
}

TEST(TransformerTest, TruncatedInitHasNoDrawBeyondThreeDeviationsAndTheirDeviation) {
  ModelSpec model = SmallModel();
  model.num_layers = 8, model.hidden = 96, model.ffn_hidden = 160, model.init_std = 0.02, model.embed_init_std = 0.02;
  const double cut = 0.98658;  // Deviation of a standard normal cut off at 3.
  const Transformer olmo2(model, Scheme("olmo2"), 500, 7);
  for (const Parameter& parameter : olmo2.parameters()) {
    if (parameter.tensor.dim() != 2) continue;
    EXPECT_NEAR(parameter.tensor.detach().std().item<double>(), 0.02 * cut, 0.02 * 0.03) << parameter.name;
    EXPECT_LE(parameter.tensor.abs().max().item<double>(), 0.06001) << parameter.name;
  }
  const Transformer hybrid(model, Scheme("hybrid_norm"), 500, 7);
  const double std = std::sqrt(2.0 / (5 * 96)) * cut;
  EXPECT_NEAR(MeasuredStd(hybrid, "model.layers.3.self_attn.k_proj.weight"), std, std * 0.03);
  EXPECT_NEAR(MeasuredStd(hybrid, "model.layers.3.mlp.up_proj.weight"), std, std * 0.03);
  EXPECT_NEAR(MeasuredStd(hybrid, "model.layers.3.self_attn.o_proj.weight"), std / 4, std / 4 * 0.03);
  EXPECT_NEAR(MeasuredStd(hybrid, "model.layers.3.mlp.down_proj.weight"), std / 4, std / 4 * 0.03);
}

TEST(TransformerTest, DepthInitAndTheReleasedDeepNormStartAsTheySay) {
  ModelSpec model = SmallModel();
  model.num_layers = 8, model.hidden = 96, model.ffn_hidden = 160, model.init_std = 0.02;
  const Transformer depth(model, Scheme("pre_ln_depth_init"), 500, 7);
  EXPECT_NEAR(MeasuredStd(depth, "model.layers.0.self_attn.o_proj.weight"), 0.02 / std::sqrt(2), 4e-4);
  EXPECT_NEAR(MeasuredStd(depth, "model.layers.7.mlp.down_proj.weight"), 0.005, 1.5e-4);
  EXPECT_NEAR(MeasuredStd(depth, "model.layers.7.mlp.up_proj.weight"), 0.02, 6e-4);
  const Transformer release(model, Scheme("deepnorm_mixln_release"), 500, 7);
  const double square = std::sqrt(2.0 / (96 + 96)), gain = std::pow(64, 0.25);
  EXPECT_NEAR(MeasuredStd(release, "model.layers.7.self_attn.v_proj.weight"), square * gain, square * gain * 0.03);
  EXPECT_NEAR(MeasuredStd(release, "model.layers.7.self_attn.q_proj.weight"), square, square * 0.03);
}

TEST(TransformerTest, FfnContributionOfLnsAtInitFallsAsComputedByMonteCarlo) {
  const ModelSpec model = {.family = "llama",
                           .num_layers = 4,
                           .hidden = 512,
                           .num_heads = 8,
                           .ffn_hidden = 1368,
                           .rope_base = 10000,
                           .norm_eps = 1e-6,
                           .init_std = 0.02,
                           .embed_init_std = 0.02};
  const Transformer transformer(model, Scheme("lns"), kVocab, 7);
  const Batch batch = SmallBatch();
  LayerForwardStats stats;
  const c10::NoGradGuard no_grad;
  transformer.Loss(batch.inputs, batch.targets, &stats);
  EXPECT_NEAR(stats.blocks[0].ffn.mean_square, 6.6e-3, 6.6e-4);
  EXPECT_NEAR(stats.blocks[1].ffn.mean_square, 1.5e-3, 1.5e-4);
  EXPECT_NEAR(stats.blocks[3].ffn.mean_square, 3.7e-4, 3.7e-5);
}

TEST(TransformerTest, GradientScalesWithTheLossForMicroBatches) {
  const Transformer transformer(SmallModel(), Scheme("lns"), kVocab, 7, at::kDouble);
  const Batch batch = SmallBatch();
  const at::Tensor weight = transformer.parameters().back().tensor;
  transformer.Loss(batch.inputs, batch.targets).backward();
  const at::Tensor whole = weight.grad().clone();
  weight.mutable_grad().reset();
  for (int micro = 0; micro < 2; ++micro) (transformer.Loss(batch.inputs, batch.targets) / 2).backward();
  EXPECT_LT(RelativeError(weight.grad(), whole), 1e-14);
}

TEST(TransformerTest, WritingATrainableTensorInPlaceChangesTheModel) {
  const Transformer transformer(SmallModel(), Scheme("pre_ln"), kVocab, 7);
  const Batch batch = SmallBatch();
  for (const Parameter& parameter : transformer.parameters()) {
    const at::Tensor before = transformer.Logits(batch.inputs);
    parameter.tensor.detach().mul_(1.5);
    EXPECT_FALSE(at::equal(transformer.Logits(batch.inputs), before)) << parameter.name;
    EXPECT_TRUE(parameter.tensor.is_contiguous()) << parameter.name;
  }
}

TEST(TransformerTest, BackwardTwiceOverOneLossIsAnErrorThatSaysSo) {
  const Transformer transformer(SmallModel(), Scheme("pre_ln"), kVocab, 7);
  const Batch batch = SmallBatch();
  const at::Tensor loss = transformer.Loss(batch.inputs, batch.targets);
  loss.backward({}, /*retain_graph=*/true);
  EXPECT_THAT([&] { loss.backward(); }, ThrowsMessage<c10::Error>(HasSubstr("backward ran twice")));
}

TEST(TransformerTest, TokensOutsideTheVocabularyAreNamed) {
  const Transformer transformer(SmallModel(), Scheme("pre_ln"), kVocab, 7);
  Batch batch = SmallBatch();
  batch.targets[0][0] = kVocab;
  EXPECT_THAT([&] { transformer.Loss(batch.inputs, batch.targets); },
              ThrowsMessage<c10::Error>(HasSubstr("to 50, the vocabulary has 50 tokens")));
}

TEST(TransformerTest, AnUnknownSchemeAndAnImpossibleShapeArePermanentErrors) {
  EXPECT_THAT([] { Transformer(SmallModel(), Scheme("preln"), kVocab, 7); },
              ThrowsMessage<PermanentError>(HasSubstr("norm.scheme: is \"preln\": there are pre_ln, lns")));
  ModelSpec odd = SmallModel();
  odd.num_heads = 8;
  EXPECT_THAT([&] { Transformer(odd, Scheme("lns"), kVocab, 7); },
              ThrowsMessage<PermanentError>(HasSubstr("hidden 24 over model.num_heads 8 gives no even head size")));
}

TEST(TransformerTest, FlopsCountSixPerWeightOutsideOfTheEmbeddingAndAttention) {
  const ModelSpec model = SmallModel();
  const Transformer transformer(model, Scheme("pre_ln"), kVocab, 7);
  const double weights = 5 * (4 * 24 * 24 + 3 * 24 * 20 + 2 * 24) + 24 + kVocab * 24;
  EXPECT_EQ(transformer.FlopsPerToken(100), 6 * weights + 12 * 5 * 24 * 100);
}

}  // namespace
}  // namespace normlab::trainer
