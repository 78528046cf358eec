#include "cli/analysis_file.h"

#include <gmock/gmock.h>

namespace normlab::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kText[] = R"({
  "format": "normlab-analysis-v1", "source": "checkpoint a", "checkpoint": "step-00000100.attempt-012", "step": 100,
  "scheme": "lns", "dataset": "data/docs", "sequences": 4, "seq_len": 32, "tokens": 128, "loss": 3.5,
  "layers": [{"layer": 1, "variance_mean": 0.5, "loss_without": 4.5, "boundary_gradient_ratio": null},
             {"layer": 2, "variance_mean": 0.75, "loss_without": 3.25}],
  "angular_distance": {"all_positions": [[0.25, 0.5], [0.125]], "last_position": [[0.375, 0.625], [0.25]]}})";

TEST(AnalysisFileTest, GivesEachNumberToItsLayerAndLeavesOutWhatIsNull) {
  const auto analysis = ReadAnalysis(kText);
  ASSERT_TRUE(analysis.ok()) << analysis.status();
  EXPECT_EQ(analysis->step(), 100);
  EXPECT_EQ(analysis->attempt(), 12);
  EXPECT_EQ(analysis->loss(), 3.5);
  ASSERT_EQ(analysis->layers_size(), 2);
  EXPECT_EQ(analysis->layers(0).variance_mean(), 0.5);
  EXPECT_EQ(analysis->layers(1).loss_without(), 3.25);
  EXPECT_FALSE(analysis->layers(0).has_boundary_gradient_ratio());
  EXPECT_FALSE(analysis->layers(0).has_jacobian_distance_mean());
  EXPECT_THAT(analysis->layers(0).angular_distance(), ElementsAre(0.25, 0.5));
  EXPECT_THAT(analysis->layers(1).angular_distance_last(), ElementsAre(0.25));
}

TEST(AnalysisFileTest, OfADivergedRunIsRefusedWithTheFieldThatIsNoNumber) {
  std::string text = kText;
  text.replace(text.find("\"loss\": 3.5"), 11, "\"loss\": null");
  const absl::Status no_loss = ReadAnalysis(text).status();
  EXPECT_EQ(no_loss.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_loss.message()), HasSubstr("no number in 'loss'"));
  text = kText;
  text.replace(text.find("0.625"), 5, "null");
  EXPECT_THAT(std::string(ReadAnalysis(text).status().message()), HasSubstr("'angular_distance.last_position'"));
}

TEST(AnalysisFileTest, RefusesWhatIsNoAnalysisOfARun) {
  EXPECT_THAT(std::string(ReadAnalysis("{").status().message()), HasSubstr("is no normlab-analysis-v1"));
  EXPECT_THAT(std::string(ReadAnalysis(R"({"format": "normlab-analysis-v1"})").status().message()), HasSubstr("step"));
  std::string text = kText;
  text.replace(text.find("step-00000100.attempt-012"), 25, "");
  EXPECT_THAT(std::string(ReadAnalysis(text).status().message()), HasSubstr("no checkpoint of a run"));
}

}  // namespace
}  // namespace normlab::cli
