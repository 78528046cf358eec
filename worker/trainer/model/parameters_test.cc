#include "worker/trainer/model/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace normlab::trainer {
namespace {

using ::testing::ElementsAre;

TEST(ParametersTest, CountsOfThePublishedModelsAreExact) {
  struct Preset {
    const char* name;
    int num_layers;
    int64_t hidden, num_heads, ffn_hidden, vocab;
    double millions;
    double non_embedding_millions;
    double tolerance;  // Of the published rounding.
  };
  const Preset presets[] = {
      {"9M", 4, 128, 4, 352, 32000, 9.0, 0.8, 0.05},          {"20M", 4, 256, 4, 688, 32000, 19.5, 3.2, 0.05},
      {"35M", 6, 384, 8, 1024, 32000, 35.2, 10.6, 0.05},      {"40M", 8, 416, 8, 1024, 32000, 42.4, 15.8, 0.05},
      {"60M", 8, 512, 8, 1376, 32000, 58.1, 25.3, 0.05},      {"71M", 12, 512, 8, 1368, 32000, 70.6, 37.8, 0.05},
      {"100M", 12, 640, 10, 1708, 32100, 100, 59, 0.5},       {"130M", 12, 768, 12, 2048, 32000, 134.1, 85.0, 0.05},
      {"250M", 24, 768, 16, 2560, 32000, 247.4, 198.2, 0.05}, {"350M", 24, 1024, 16, 2736, 32000, 368.0, 302.4, 0.05},
      {"1B", 24, 2048, 32, 5461, 32000, 1339, 1208, 0.5},     {"3B", 32, 2560, 32, 6848, 32000, 2686, 2522, 0.5},
      {"7B", 32, 4096, 32, 11008, 32000, 6738, 6476, 0.5}};
  for (const Preset& p : presets) {
    const ModelSpec model = {.family = "llama",
                             .num_layers = p.num_layers,
                             .hidden = p.hidden,
                             .num_heads = p.num_heads,
                             .ffn_hidden = p.ffn_hidden};
    CheckModelSpec(model, p.vocab);
    const int64_t count = CountParameters(model, p.vocab, /*final_norm=*/true);
    const int64_t d = p.hidden, f = p.ffn_hidden;
    EXPECT_EQ(count, 2 * p.vocab * d + p.num_layers * (4 * d * d + 3 * d * f + 2 * d) + d) << p.name;
    EXPECT_NEAR(static_cast<double>(count) / 1e6, p.millions, p.tolerance) << p.name;
    const double embeddings = static_cast<double>(2 * p.vocab * d);
    EXPECT_NEAR((static_cast<double>(count) - embeddings) / 1e6, p.non_embedding_millions, p.tolerance) << p.name;
  }
}

TEST(ParametersTest, NamesAreThoseOfHuggingFacesLlamaInAFixedOrder) {
  const ModelSpec model = {.family = "llama", .num_layers = 1, .hidden = 8, .num_heads = 2, .ffn_hidden = 12};
  std::vector<std::string> names;
  for (const ParameterInfo& parameter : ListParameters(model, 10, /*final_norm=*/true)) names.push_back(parameter.name);
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
  EXPECT_EQ(CountParameters(model, 10, true) - CountParameters(model, 10, false), 8);
}

}  // namespace
}  // namespace normlab::trainer
