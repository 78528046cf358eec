// The families gpt2 and minimax as whole models.
#include "worker/trainer/model/families.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/trainer/model/testing/reference_families.h"
#include "worker/trainer/model/transformer.h"

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int64_t kVocab = 50;

ModelSpec SmallModel(const std::string& family) {
  return {.family = family,
          .num_layers = 4,
          .hidden = 24,
          .num_heads = 3,
          .ffn_hidden = 20,
          .rope_base = 100,
          .norm_eps = 1e-5,
          .init_std = 0.1,
          .embed_init_std = 0.5,
          .max_positions = 80,
          .num_kv_heads = 1,
          .softmax_every = 2,
          .num_experts = 4,
          .capacity_factor = 0.8,
          .balance_coefficient = 0.5};
}

NormSpec Scheme(const std::string& name) { return {.scheme = name, .mix_ln_ratio = 0.5, .final_norm = true}; }

at::Generator Random(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

struct Batch {
  at::Tensor inputs = at::randint(kVocab, {3, 70}, Random(1), at::kLong);
  at::Tensor targets = at::randint(kVocab, {3, 70}, Random(2), at::kLong);
};

/// Gains and biases away from 1 and 0, so that one in the wrong place is seen.
testing::Weights ShakenWeights(const Transformer& transformer) {
  testing::Weights weights;
  for (const Parameter& parameter : transformer.parameters()) {
    const at::Tensor tensor = parameter.tensor.detach();
    if (tensor.dim() == 1) tensor.add_(0.3 * at::randn(tensor.sizes(), Random(3), at::kDouble));
    weights[parameter.name] = tensor.to(at::kDouble, false, /*copy=*/true).requires_grad_();
  }
  return weights;
}

double RelativeError(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

class FamilyTest : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  void ExpectEqualsReference(at::ScalarType dtype, double tolerance) {
    const auto [family, scheme] = GetParam();
    const ModelSpec model = SmallModel(family);
    const Transformer transformer(model, Scheme(scheme), kVocab, /*seed=*/7, dtype);
    const testing::Weights weights = ShakenWeights(transformer);
    const Batch batch;
    const auto run = family == std::string("gpt2") ? testing::RunGpt2 : testing::RunMiniMax;
    const testing::FamilyResult expected = run(model, Scheme(scheme), weights, batch.inputs, batch.targets);
    expected.objective.backward();

    const at::Tensor loss = transformer.Loss(batch.inputs, batch.targets);
    loss.backward();
    EXPECT_NEAR(loss.item<double>(), expected.objective.item<double>(), 10 * tolerance);
    EXPECT_LT(RelativeError(transformer.Logits(batch.inputs), expected.logits.detach()), tolerance);
    for (const Parameter& parameter : transformer.parameters()) {
      const at::Tensor& grad = weights.at(parameter.name).grad();
      ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      EXPECT_LT(RelativeError(parameter.tensor.grad(), grad), tolerance) << parameter.name;
    }
    const c10::NoGradGuard no_grad;
    EXPECT_NEAR(transformer.Loss(batch.inputs, batch.targets).item<double>(), expected.loss.item<double>(),
                10 * tolerance)
        << "an evaluation has no balance loss";
  }
};

TEST_P(FamilyTest, EqualsItsEquationsInFloat64ForwardAndGradient) { ExpectEqualsReference(at::kDouble, 1e-10); }

TEST_P(FamilyTest, EqualsItsEquationsInFloat32UpToItsPrecision) { ExpectEqualsReference(at::kFloat, 3e-5); }

TEST_P(FamilyTest, ParametersAreListedWithoutBuildingTheModel) {
  const auto [family, scheme] = GetParam();
  const Transformer transformer(SmallModel(family), Scheme(scheme), kVocab, 7);
  int64_t count = 0;
  for (const Parameter& parameter : transformer.parameters()) count += parameter.tensor.numel();
  EXPECT_EQ(CountParameters(SmallModel(family), kVocab, NormSpec{}), count);
}

INSTANTIATE_TEST_SUITE_P(
    All, FamilyTest,
    ::testing::Combine(::testing::Values("gpt2", "minimax"),
                       ::testing::Values("pre_ln", "lns", "post_ln", "deepnorm", "pre_ln_scaled_init")),
    [](const auto& info) { return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param); });

std::vector<std::string> NamesOf(const ModelSpec& model) {
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : ListParameters(model, kVocab, NormSpec{})) {
    names.push_back(parameter.name);
  }
  return names;
}

TEST(Gpt2Test, NamesAndShapesAreThoseOfHuggingFacesGpt2LmHeadModel) {
  ModelSpec model = SmallModel("gpt2");
  model.num_layers = 1;
  EXPECT_THAT(NamesOf(model),
              ElementsAre("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight",
                          "transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_proj.weight",
                          "transformer.h.0.attn.c_proj.bias", "transformer.h.0.mlp.c_fc.weight",
                          "transformer.h.0.mlp.c_fc.bias", "transformer.h.0.mlp.c_proj.weight",
                          "transformer.h.0.mlp.c_proj.bias", "transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias",
                          "transformer.h.0.ln_2.weight", "transformer.h.0.ln_2.bias", "transformer.ln_f.weight",
                          "transformer.ln_f.bias"));
}

TEST(Gpt2Test, TheSmallestReleasedModelHasItsPublishedNumberOfParameters) {
  const ModelSpec model = {
      .family = "gpt2", .num_layers = 12, .hidden = 768, .num_heads = 12, .ffn_hidden = 3072, .max_positions = 1024};
  EXPECT_EQ(CountParameters(model, 50257, NormSpec{}), 124'439'808);
}

TEST(Gpt2Test, ASequenceLongerThanItsPositionsIsNamed) {
  const Transformer transformer(SmallModel("gpt2"), Scheme("pre_ln"), kVocab, 7);
  const at::Tensor long_input = at::zeros({1, 81}, at::kLong);
  EXPECT_THAT([&] { transformer.Logits(long_input); },
              ThrowsMessage<c10::Error>(HasSubstr("81 tokens, the model has learned positions for 80")));
}

double StdOf(const at::Tensor& tensor) { return tensor.detach().std().item<double>(); }

at::Tensor TensorOf(const Transformer& transformer, const std::string& name) {
  for (const Parameter& parameter : transformer.parameters()) {
    if (parameter.name == name) return parameter.tensor.detach();
  }
  ADD_FAILURE() << name;
  return {};
}

TEST(Gpt2Test, BiasesStartAtZeroAndScaledInitIsWhatTheReleasedModelStartsFrom) {
  ModelSpec model = SmallModel("gpt2");
  model.hidden = 96, model.ffn_hidden = 384, model.init_std = 0.02;
  const Transformer transformer(model, Scheme("pre_ln_scaled_init"), 500, 7);
  EXPECT_NEAR(StdOf(TensorOf(transformer, "transformer.h.1.attn.c_attn.weight")), 0.02, 0.0004);
  EXPECT_NEAR(StdOf(TensorOf(transformer, "transformer.h.1.attn.c_proj.weight")), 0.02 / std::sqrt(8), 0.0002);
  EXPECT_NEAR(StdOf(TensorOf(transformer, "transformer.h.3.mlp.c_proj.weight")), 0.02 / std::sqrt(8), 0.0002);
  EXPECT_EQ(TensorOf(transformer, "transformer.h.1.attn.c_attn.bias").abs().max().item<float>(), 0);
  EXPECT_EQ(TensorOf(transformer, "transformer.ln_f.bias").abs().max().item<float>(), 0);
  EXPECT_NEAR(StdOf(TensorOf(transformer, "transformer.wpe.weight")), 0.5, 0.02);
}

TEST(Gpt2Test, DeepNormStartsTheValuePartOfTheFusedProjectionWithItsOwnGain) {
  ModelSpec model = SmallModel("gpt2");
  model.hidden = 96, model.ffn_hidden = 384;
  const Transformer transformer(model, Scheme("deepnorm"), 500, 7);
  const at::Tensor qkv = TensorOf(transformer, "transformer.h.0.attn.c_attn.weight");  // [96, 3 * 96]
  const double xavier = std::sqrt(2.0 / (96 + 96)), beta = std::pow(8 * 4, -0.25);
  EXPECT_NEAR(StdOf(qkv.slice(1, 0, 96)), xavier, 0.03 * xavier);
  EXPECT_NEAR(StdOf(qkv.slice(1, 96, 192)), xavier, 0.03 * xavier);
  EXPECT_NEAR(StdOf(qkv.slice(1, 192)), xavier * beta, 0.03 * xavier);
  EXPECT_NEAR(StdOf(TensorOf(transformer, "transformer.h.0.mlp.c_fc.weight")), std::sqrt(2.0 / 480) * beta, 0.001);
}

TEST(MiniMaxTest, LayersSayWhatTheirExpertsDropped) {
  const Batch batch;
  LayerForwardStats stats;
  ModelSpec model = SmallModel("minimax");
  Transformer(model, Scheme("pre_ln"), kVocab, 7).Loss(batch.inputs, batch.targets, &stats);
  ASSERT_EQ(stats.blocks.size(), 4u);
  for (const BlockStats& block : stats.blocks) {
    EXPECT_GE(block.dropped_ratio.value(), 0.2 - 1e-9) << "there is room for four fifths of all choices";
    EXPECT_LT(block.dropped_ratio.value(), 0.8);
  }
  model.capacity_factor = 2;
  Transformer(model, Scheme("pre_ln"), kVocab, 7).Loss(batch.inputs, batch.targets, &stats);
  EXPECT_EQ(stats.blocks[3].dropped_ratio, 0);
  Transformer(SmallModel("gpt2"), Scheme("pre_ln"), kVocab, 7).Loss(batch.inputs, batch.targets, &stats);
  EXPECT_EQ(stats.blocks[3].dropped_ratio, std::nullopt);
}

TEST(MiniMaxTest, SevenLightningBlocksAreFollowedByOneWithSoftmax) {
  ModelSpec model = SmallModel("minimax");
  model.softmax_every = 8;
  for (int layer = 1; layer <= 24; ++layer) EXPECT_EQ(IsSoftmaxLayer(model, layer), layer % 8 == 0);
}

TEST(MiniMaxTest, DeepNormStartsValueOutputAndExpertsWithItsGainAndGateAndRouterWithout) {
  ModelSpec model = SmallModel("minimax");
  model.hidden = 96, model.ffn_hidden = 160;
  const Transformer transformer(model, Scheme("deepnorm"), 500, 7);
  const double beta = std::pow(8 * 4, -0.25), square = std::sqrt(2.0 / 192), expert = std::sqrt(2.0 / 256) * beta;
  const std::pair<const char*, double> expected[] = {{"0.self_attn.q_proj", square},
                                                     {"0.self_attn.k_proj", square},
                                                     {"0.self_attn.v_proj", square * beta},
                                                     {"0.self_attn.out_proj", square * beta},
                                                     {"0.self_attn.output_gate", square},
                                                     {"1.self_attn.o_proj", square * beta},
                                                     {"1.self_attn.v_proj", std::sqrt(2.0 / (96 + 32)) * beta},
                                                     {"1.block_sparse_moe.experts.3.w1", expert},
                                                     {"1.block_sparse_moe.experts.3.w2", expert},
                                                     {"1.block_sparse_moe.experts.0.w3", expert}};
  for (const auto& [name, std] : expected) {
    EXPECT_NEAR(StdOf(TensorOf(transformer, std::string("model.layers.") + name + ".weight")), std, std * 0.04) << name;
  }
  const double router = std::sqrt(2.0 / (96 + 4));
  EXPECT_NEAR(StdOf(TensorOf(transformer, "model.layers.0.block_sparse_moe.gate.weight")), router, router * 0.15);
}

TEST(FamiliesTest, AnUnknownOneNamesThoseThereAre) {
  EXPECT_THAT([] { GetFamily("lama"); },
              ThrowsMessage<PermanentError>(HasSubstr("\"lama\": this trainer builds llama, gpt2, minimax")));
}

}  // namespace
}  // namespace normlab::trainer
