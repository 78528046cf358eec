#include "coordinator/store/convert.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "coordinator/store/testing/sample_state.h"

namespace normlab::store {
namespace {

v1::StoredRun WholeRun(const engine::Run& run) {
  v1::StoredRun stored = FixedPart(run);
  stored.MergeFrom(MovingPart(run));
  return stored;
}

TEST(ConvertTest, GivesARunBackWithEveryField) {
  const engine::Run run = MakeSampleRun();
  const auto back = FromStored(kSampleRun, WholeRun(run));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(WholeRun(*back), WholeRun(run)))
      << WholeRun(*back).DebugString();
  EXPECT_EQ(back->info->worker_labels, run.info->worker_labels);
  EXPECT_EQ(back->info->world_size, 2);
  EXPECT_EQ(back->info->retries_max, 4);
  EXPECT_EQ(back->info->steps, 100);
  EXPECT_EQ(back->info->created_at, kSampleTime);
  EXPECT_EQ(back->state, run.state);
  EXPECT_EQ(back->stop_intent, run.stop_intent);
  EXPECT_EQ(back->outcome, run.outcome);
  EXPECT_EQ(back->ranks, run.ranks);
  EXPECT_EQ(back->not_before, run.not_before);
  EXPECT_EQ(back->queued_at, run.queued_at);
  EXPECT_EQ(back->progress.checkpoint->name, "step-12-a5");
  EXPECT_EQ(back->progress.last_layers, run.progress.last_layers);
}

TEST(ConvertTest, ReadsWhatSchemaVersion3HasWritten) {
  const engine::Run run = MakeSampleRun();
  v1::StoredRun stored = MovingPart(run);
  *stored.mutable_run() = ToProto(run);
  const auto back = FromStored(kSampleRun, stored);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(FixedPart(*back), FixedPart(run)))
      << FixedPart(*back).DebugString();

  v1::StoredExperiment experiment;
  FillWithoutSpec(MakeSampleState().experiments.at(kSampleExperiment), *experiment.mutable_experiment());
  experiment.mutable_experiment()->mutable_spec()->set_name("depth");
  EXPECT_EQ(FromStored(experiment)->spec, MakeSampleState().experiments.at(kSampleExperiment).spec);
}

TEST(ConvertTest, RefusesWhatCannotBe) {
  v1::StoredRun stored = WholeRun(MakeSampleRun());
  stored.set_outcome(99);
  EXPECT_EQ(FromStored(kSampleRun, stored).status().message(), "has outcome 99, which this version does not know");
  stored = WholeRun(MakeSampleRun());
  stored.mutable_ranks()->RemoveLast();
  EXPECT_EQ(FromStored(kSampleRun, stored).status().message(), "has 2 workers but states of 1 ranks");
}

TEST(ConvertTest, KeepsTimesThatNoTimestampCanHoldInRange) {
  EXPECT_EQ(ToTimestamp(absl::InfiniteFuture()).seconds(), 253'402'300'799);
  EXPECT_EQ(ToTimestamp(absl::UnixEpoch() - absl::Milliseconds(1)).nanos(), 999'000'000);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(INT64_MAX);
  timestamp.set_nanos(-5);
  EXPECT_EQ(FromTimestamp(timestamp), absl::FromUnixSeconds(253'402'300'799));
}

}  // namespace
}  // namespace normlab::store
