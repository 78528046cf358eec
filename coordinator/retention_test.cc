#include "coordinator/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "common/metrics_page.h"
#include "common/testing/fake_clock.h"
#include "coordinator/loop.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/memory_store.h"

namespace normlab {
namespace {

using ::testing::HasSubstr;
using Part = store::Store::Part;

class RetentionTest : public ::testing::Test {
 protected:
  RetentionTest() {
    policy_.parts[static_cast<size_t>(Part::kEvents)].age = absl::Hours(1);
    loop_ = *Loop::Create(engine::Options(), *store_, clock_, metrics_);
    thread_ = std::thread([this] { ran_ = loop_->Run(); });
  }
  ~RetentionTest() override {
    loop_->Stop();
    thread_.join();
  }

  /// Waits for the answer.
  void Do(engine::Command command) {
    std::promise<absl::Status> done;
    loop_->Submit(std::move(command), [&](const absl::StatusOr<engine::Reply>& reply, const service::View*) {
      done.set_value(reply.status());
    });
    const absl::Status status = done.get_future().get();
    ASSERT_TRUE(status.ok()) << status;
  }

  void Cancel(RunId run) { Do(engine::CancelRuns{.selector = {.runs = {run}}, .actor = "ada"}); }

  size_t NumEvents(RunId run) { return store_->Events(run)->size(); }

  FakeClock clock_;
  Metrics metrics_;
  RetentionPolicy policy_;
  std::unique_ptr<store::Store> store_ = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
  std::unique_ptr<Loop> loop_;
  absl::Status ran_;
  std::thread thread_;
};

TEST_F(RetentionTest, RemovesOfEndedRunsWhatIsPastItsAge) {
  Do(MakeCreate("a", 2));
  Cancel(kFirstRun);
  Retention retention(policy_, *store_, *loop_, clock_, metrics_);
  EXPECT_EQ(*retention.RunOnce(), 0);
  clock_.Advance(absl::Hours(1) + absl::Seconds(1));
  EXPECT_EQ(*retention.RunOnce(), 1);
  EXPECT_EQ(NumEvents(kFirstRun), 0u);
  EXPECT_EQ(NumEvents(kSecondRun), 1u) << "it still waits";
  EXPECT_EQ(*retention.RunOnce(), 0);
  EXPECT_THAT(MakeMetricsPage(metrics_.Collect(std::nullopt), "").body,
              HasSubstr("normlab_expired_runs_total{part=\"events\"} 1"));
}

TEST_F(RetentionTest, WorksInBatches) {
  Do(MakeCreate("a", 250));
  Do(engine::CancelRuns{.selector = {.experiment = ExperimentId{1}}, .actor = "ada"});
  clock_.Advance(absl::Hours(2));
  Retention retention(policy_, *store_, *loop_, clock_, metrics_);
  EXPECT_EQ(*retention.RunOnce(), 250);
}

TEST_F(RetentionTest, EndsWithTheEngine) {
  Do(MakeCreate("a"));
  Cancel(kFirstRun);
  clock_.Advance(absl::Hours(2));
  loop_->Stop();
  Retention retention(policy_, *store_, *loop_, clock_, metrics_);
  EXPECT_EQ(retention.RunOnce().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NumEvents(kFirstRun), 2u);
}

}  // namespace
}  // namespace normlab
