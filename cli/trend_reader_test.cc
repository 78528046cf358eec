#include "cli/trend_reader.h"

#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

/// Histories of one report at step 5; or silence.
class FakeRuns : public v1::RunService::Service {
 public:
  grpc::Status GetMetrics(grpc::ServerContext* context, const v1::GetMetricsRequest*,
                          v1::GetMetricsResponse* response) override {
    ++calls;
    calls.notify_all();
    if (is_broken) return grpc::Status(grpc::StatusCode::DATA_LOSS, "damaged");
    while (is_silent && !context->IsCancelled()) std::this_thread::yield();
    response->add_steps()->set_step(5);
    response->mutable_steps(0)->mutable_report()->set_loss(4);
    return grpc::Status::OK;
  }
  std::atomic<int> calls = 0;
  std::atomic<bool> is_silent = false;
  std::atomic<bool> is_broken = false;
};

class TrendReaderTest : public ::testing::Test {
 protected:
  TrendReaderTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&runs_);
    server_ = builder.BuildAndStart();
    client_ = std::make_unique<Client>(fmt::format("127.0.0.1:{}", port), [](const std::string&) {});
  }

  FakeRuns runs_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(TrendReaderTest, FinishReadsEveryRunThatIsFollowed) {
  std::set<RunId> read;
  TrendReader reader(std::move(client_), [&](RunId run, const Trend& trend) {
    EXPECT_THAT(trend.losses, ::testing::ElementsAre(4));
    read.insert(run);
  });
  reader.Follow({{RunId{{1}, 1}, 5}, {RunId{{1}, 2}, 5}, {RunId{{1}, 3}, 5}});
  reader.Finish();
  EXPECT_EQ(read.size(), 3);
}

TEST_F(TrendReaderTest, FinishGivesUpWithoutAnAnswer) {
  runs_.is_broken = true;
  TrendReader reader(std::move(client_), [](RunId, const Trend&) { FAIL(); });
  reader.Follow({{RunId{{1}, 1}, 5}, {RunId{{1}, 2}, 5}});
  reader.Finish();
  EXPECT_GE(runs_.calls, 1);
}

TEST_F(TrendReaderTest, ItsEndDoesNotWaitForAnAnswer) {
  runs_.is_silent = true;
  absl::Time begin;
  {
    TrendReader reader(std::move(client_), [](RunId, const Trend&) {});
    reader.Follow({{RunId{{1}, 1}, 5}});
    runs_.calls.wait(0);
    begin = absl::Now();
  }
  // The call itself would wait for 20 s.
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

}  // namespace
}  // namespace normlab::cli
