#include "worker/agent/metrics.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"

namespace normlab::agent {
namespace {

using testing::HasSubstr;
using testing::Not;

class MetricsTest : public testing::Test {
 protected:
  std::string Scrape() { return prometheus::TextSerializer().Serialize(registry_.Collect()); }

  prometheus::Registry registry_;
  Metrics metrics_{registry_};
};

v1::TrainerEvent StepEvent(int64_t step, double loss, int64_t tokens) {
  v1::TrainerEvent event;
  event.mutable_step()->set_step(step);
  event.mutable_step()->set_loss(loss);
  event.mutable_step()->set_tokens(tokens);
  return event;
}

v1::TrainerEvent LayersEvent(int num_layers, double variance) {
  v1::TrainerEvent event;
  for (int layer = 1; layer <= num_layers; ++layer) {
    v1::LayerStats& stats = *event.mutable_layers()->add_layers();
    stats.set_layer(layer);
    stats.set_output_variance(variance * layer);
  }
  return event;
}

TEST_F(MetricsTest, ShowsTheLastValueOfARunWithItsLabels) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.03", "lns", 7);
  run.Observe(StepEvent(1, 5.5, 100));
  run.Observe(StepEvent(2, 5.25, 200));
  run.Observe(LayersEvent(2, 1.5));
  const std::string text = Scrape();
  // Labels are in no order of ours.
  EXPECT_THAT(text, HasSubstr("\nnormlab_train_loss_nats{"));
  EXPECT_THAT(text, HasSubstr("} 5.25\n"));
  for (const char* label :
       {"experiment=\"exp-0001\"", "run=\"exp-0001.03\"", "norm=\"lns\"", "seed=\"7\"", "layer=\"2\""}) {
    EXPECT_THAT(text, HasSubstr(label));
  }
  EXPECT_THAT(text, HasSubstr("\nnormlab_layer_output_variance{"));
  EXPECT_THAT(text, HasSubstr("} 3\n"));
}

TEST_F(MetricsTest, CountsTokensFromTheRunsFirstStepAlsoAfterAResume) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "lns", 1);
  run.Observe(StepEvent(11, 5, 1100));
  run.Observe(StepEvent(12, 5, 1200));
  EXPECT_THAT(Scrape(), HasSubstr("} 1200\n"));
}

TEST_F(MetricsTest, RemovesTheSeriesOfARunThatEnded) {
  {
    RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "lns", 1);
    run.Observe(StepEvent(1, 5, 100));
    run.Observe(LayersEvent(12, 1));
    v1::TrainerEvent eval, checkpoint;
    eval.mutable_eval()->set_loss(4);
    checkpoint.mutable_checkpoint()->set_step(1);
    run.Observe(eval);
    run.Observe(checkpoint);
    EXPECT_THAT(Scrape(), HasSubstr("exp-0001.01"));
  }
  EXPECT_THAT(Scrape(), Not(HasSubstr("exp-0001")));
}

TEST_F(MetricsTest, HasNoSeriesForWhatWasNeverReported) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "lns", 1);
  EXPECT_THAT(Scrape(), Not(HasSubstr("exp-0001")));
}

TEST_F(MetricsTest, FitsTheGrowthOfTheVarianceOverTheLayers) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "pre_ln", 1);
  run.Observe(LayersEvent(12, 0.5));  // variance = 0.5 * layer^1
  EXPECT_THAT(Scrape(), testing::ContainsRegex("normlab_variance_growth_exponent\\{[^}]*\\} (1|0\\.99999|1\\.00000)"));
}

TEST_F(MetricsTest, ShowsTheTimeOfAnUpdateByPhase) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "lns", 1);
  v1::TrainerEvent event = StepEvent(1, 5, 100);
  event.mutable_step()->set_forward_seconds(0.25);
  run.Observe(event);
  EXPECT_THAT(Scrape(), testing::ContainsRegex("normlab_train_phase_seconds\\{[^}]*phase=\"forward\"[^}]*\\} 0.25"));
}

TEST_F(MetricsTest, HasNoGainsForALayerWithoutNorms) {
  RunMetrics run(metrics_.runs, "exp-0001", "exp-0001.01", "ngpt", 1);
  run.Observe(LayersEvent(2, 1));
  EXPECT_THAT(Scrape(), Not(HasSubstr("normlab_layer_norm_gain_mean{")));
}

TEST_F(MetricsTest, CountsExitsByReason) {
  metrics_.CountExit("finished");
  metrics_.CountExit("finished");
  metrics_.CountExit("crashed");
  EXPECT_THAT(Scrape(), HasSubstr("normlab_worker_trainer_exits_total{reason=\"finished\"} 2\n"));
}

}  // namespace
}  // namespace normlab::agent
