#include "worker/trainer/train/schedule.h"

#include <gtest/gtest.h>

namespace normlab::trainer {
namespace {

TrainSpec Spec(int64_t steps, int64_t warmup_steps) {
  return {.steps = steps, .lr = 0.01, .lr_min_ratio = 0.1, .warmup_steps = warmup_steps, .schedule = "cosine"};
}

TrainSpec Wsd(int64_t steps, int64_t warmup_steps, double decay_ratio) {
  TrainSpec spec = Spec(steps, warmup_steps);
  spec.schedule = "wsd";
  spec.decay_ratio = decay_ratio;
  return spec;
}

TEST(ScheduleTest, WarmsUpLinearlyFromZero) {
  const TrainSpec spec = Spec(100, 10);
  EXPECT_EQ(LearningRate(spec, 1), 0);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 6), 0.005);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 11), 0.01);
}

TEST(ScheduleTest, FallsAlongACosineToTheMinimum) {
  const TrainSpec spec = Spec(110, 10);
  EXPECT_DOUBLE_EQ(LearningRate(spec, 61), 0.0055) << "half way";
  EXPECT_DOUBLE_EQ(LearningRate(spec, 111), 0.001) << "the update after the last";
  for (int64_t step = 12; step <= 110; ++step) EXPECT_LT(LearningRate(spec, step), LearningRate(spec, step - 1));
}

TEST(ScheduleTest, WithoutWarmupTheFirstUpdateHasThePeak) { EXPECT_DOUBLE_EQ(LearningRate(Spec(100, 0), 1), 0.01); }

TEST(ScheduleTest, AWarmupLongerThanTheRunNeverReachesThePeak) {
  EXPECT_DOUBLE_EQ(LearningRate(Spec(10, 20), 10), 0.01 * 9 / 20);
}

TEST(ScheduleTest, WsdWarmsUpStaysAndFallsLinearlyAtTheEnd) {
  const TrainSpec spec = Wsd(100, 10, 0.2);
  EXPECT_EQ(LearningRate(spec, 1), 0);
  for (const int64_t step : {11, 50, 81}) EXPECT_DOUBLE_EQ(LearningRate(spec, step), 0.01) << step;
  EXPECT_DOUBLE_EQ(LearningRate(spec, 91), 0.0055) << "half way";
  EXPECT_DOUBLE_EQ(LearningRate(spec, 101), 0.001) << "the update after the last";
}

TEST(ScheduleTest, WsdWithoutDecayStaysAtThePeak) { EXPECT_DOUBLE_EQ(LearningRate(Wsd(100, 10, 0), 100), 0.01); }

}  // namespace
}  // namespace normlab::trainer
