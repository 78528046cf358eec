#include "worker/trainer/model/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <string_view>

#include "common/model_preset.h"

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;

TEST(ParametersTest, CountsOfThePublishedModelsAreExact) {
  struct Published {
    double millions;
    double non_embedding_millions;
    double tolerance;  // Of the published rounding.
  };
  const std::map<std::string_view, Published> published = {
      {"9m", {9.0, 0.8, 0.05}},       {"20m", {19.5, 3.2, 0.05}},    {"35m", {35.2, 10.6, 0.05}},
      {"40m", {42.4, 15.8, 0.05}},    {"60m", {58.1, 25.3, 0.05}},   {"71m", {70.6, 37.8, 0.05}},
      {"100m", {100, 59, 0.5}},       {"130m", {134.1, 85.0, 0.05}}, {"250m", {247.4, 198.2, 0.05}},
      {"350m", {368.0, 302.4, 0.05}}, {"1b", {1339, 1208, 0.5}},     {"3b", {2686, 2522, 0.5}},
      {"7b", {6738, 6476, 0.5}}};
  ASSERT_EQ(std::size(kModelPresets), published.size());
  for (const ModelPreset& p : kModelPresets) {
    const Published& expected = published.at(p.name);
    const ModelSpec model = {.family = "llama",
                             .num_layers = p.num_layers,
                             .hidden = p.hidden,
                             .num_heads = p.num_heads,
                             .ffn_hidden = p.ffn_hidden};
    CheckModelSpec(model, p.vocab_size);
    const int64_t count = CountParameters(model, p.vocab_size, NormSpec{});
    const int64_t d = p.hidden, f = p.ffn_hidden;
    EXPECT_EQ(count, 2 * p.vocab_size * d + p.num_layers * (4 * d * d + 3 * d * f + 2 * d) + d) << p.name;
    EXPECT_NEAR(static_cast<double>(count) / 1e6, expected.millions, expected.tolerance) << p.name;
    const double embeddings = static_cast<double>(2 * p.vocab_size * d);
    EXPECT_NEAR((static_cast<double>(count) - embeddings) / 1e6, expected.non_embedding_millions, expected.tolerance)
        << p.name;
  }
}

TEST(ParametersTest, NamesAreThoseOfHuggingFacesLlamaInAFixedOrder) {
  const ModelSpec model = {.family = "llama", .num_layers = 1, .hidden = 8, .num_heads = 2, .ffn_hidden = 12};
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : ListParameters(model, 10, NormSpec{})) names.push_back(parameter.name);
  EXPECT_THAT(names,
              ElementsAre("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
                          "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
                          "model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight",
                          "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
                          "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
                          "model.norm.weight", "lm_head.weight"));
}

TEST(ParametersTest, WithoutAFinalNormThereIsNoGainForIt) {
  const ModelSpec model = {.family = "llama", .num_layers = 2, .hidden = 8, .num_heads = 2, .ffn_hidden = 12};
  EXPECT_EQ(CountParameters(model, 10, NormSpec{}) - CountParameters(model, 10, NormSpec{.final_norm = false}), 8);
}

}  // namespace
}  // namespace normlab::trainer
