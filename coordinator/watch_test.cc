#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "coordinator/store/memory_store.h"
#include "coordinator/store/testing/faulty_store.h"
#include "coordinator/testing/served.h"

// Watches by revision, the queue, and changes of waiting runs, through a real gRPC server.
namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class WatchTest : public ::testing::Test {
 protected:
  /// An open watch.
  struct Watch {
    std::unique_ptr<grpc::ClientContext> context = std::make_unique<grpc::ClientContext>();
    std::unique_ptr<grpc::ClientReader<v1::WatchRunsResponse>> reader;

    v1::WatchRunsResponse Read() {
      v1::WatchRunsResponse message;
      EXPECT_TRUE(reader->Read(&message));
      return message;
    }
    grpc::Status Finish() {
      v1::WatchRunsResponse message;
      while (reader->Read(&message)) {
      }
      return reader->Finish();
    }
    grpc::Status Leave() {
      context->TryCancel();
      return Finish();
    }
  };

  Watch Open(std::optional<int64_t> since, bool until_terminal = false) {
    v1::WatchRunsRequest request;
    request.set_until_terminal(until_terminal);
    if (since) request.set_since_revision(*since);
    Watch watch;
    watch.reader = served_.runs().WatchRuns(watch.context.get(), request);
    return watch;
  }

  v1::UpdateRunsRequest Change(const std::string& run) {
    v1::UpdateRunsRequest request;
    request.mutable_selector()->add_run_ids(run);
    request.set_actor("ada");
    return request;
  }

  void SetPriority(const std::string& run, int priority) {
    v1::UpdateRunsRequest request = Change(run);
    request.set_priority(priority);
    v1::ChangeRunsResponse response;
    ASSERT_TRUE(served_.Update(request, &response).ok());
  }

  v1::ListQueueResponse Queue(int page_size = 0, const std::string& token = "") {
    v1::ListQueueRequest request;
    request.set_page_size(page_size);
    request.set_page_token(token);
    grpc::ClientContext context;
    v1::ListQueueResponse response;
    const grpc::Status status = served_.runs().ListQueue(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::unique_ptr<store::Store> memory_store_ = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
  store::FaultyStore store_{*memory_store_};  // It counts commits.
  Served served_{store_};
};

TEST_F(WatchTest, SeesEachChangeOnceAndInOrder) {
  const auto runs = served_.Create("a");
  Watch watch = Open(std::nullopt);
  EXPECT_THAT(watch.Read().runs(), SizeIs(2));
  for (int priority = 1; priority <= 50; ++priority) SetPriority(runs[priority % 2], priority);
  std::vector<int> priorities;
  int64_t revision = 0;
  while (priorities.size() < 50) {
    const v1::WatchRunsResponse message = watch.Read();
    for (const v1::Run& run : message.runs()) {
      EXPECT_GT(run.revision(), revision);
      revision = run.revision();
      priorities.push_back(run.priority());
    }
    EXPECT_GE(message.revision(), revision);
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(priorities[i], i + 1);
  watch.Leave();
}

TEST_F(WatchTest, GoesOnFromARevisionWithoutTheRunsAsTheyAre) {
  const auto runs = served_.Create("a");
  Watch first = Open(std::nullopt);
  const int64_t seen = first.Read().revision();
  EXPECT_GT(seen, 0);
  first.Leave();
  SetPriority(runs[0], 3);
  SetPriority(runs[0], 4);
  Watch second = Open(seen);
  std::vector<int> priorities;
  while (priorities.size() < 2) {
    const v1::WatchRunsResponse message = second.Read();
    for (const v1::Run& run : message.runs()) priorities.push_back(run.priority());
  }
  EXPECT_THAT(priorities, ElementsAre(3, 4));
  second.Leave();
}

TEST_F(WatchTest, GoesOnFromTheRevisionOfAList) {
  const auto runs = served_.Create("a");
  v1::ListRunsResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(served_.runs().ListRuns(&context, {}, &list).ok());
  SetPriority(runs[1], 9);
  Watch watch = Open(list.revision());
  const v1::WatchRunsResponse message = watch.Read();
  ASSERT_THAT(message.runs(), SizeIs(1));
  EXPECT_EQ(message.runs(0).priority(), 9);
  watch.Leave();
}

TEST_F(WatchTest, EndsAResumedWatchWhoseRunsHaveEnded) {
  const auto runs = served_.Create("a", 1);
  Watch first = Open(std::nullopt);
  const int64_t seen = first.Read().revision();
  first.Leave();
  served_.Cancel(runs[0]);
  Watch second = Open(seen, /*until_terminal=*/true);
  EXPECT_EQ(second.Read().runs(0).state(), v1::CANCELLED);
  EXPECT_TRUE(second.Finish().ok());
  Watch third = Open(Queue().revision(), /*until_terminal=*/true);
  EXPECT_TRUE(third.Finish().ok()) << "there is nothing to tell";
}

TEST_F(WatchTest, LeavesNothingOfStreamsThatHaveEnded) {
  // AddressSanitizer's leak check looks. Many of them, because gRPC's timers keep old pointers to the last few.
  const auto runs = served_.Create("a", 1);
  served_.Cancel(runs[0]);
  const int64_t revision = Queue().revision();
  v1::StreamLogsRequest logs;
  logs.set_run_id(runs[0]);
  for (int i = 0; i < 100; ++i) {
    Watch watch = Open(revision, /*until_terminal=*/true);
    EXPECT_TRUE(watch.Finish().ok());
    grpc::ClientContext context;
    EXPECT_TRUE(served_.runs().StreamLogs(&context, logs)->Finish().ok());
  }
}

TEST_F(WatchTest, TellsOneThatAsksForTheFutureToLookAnew) {
  served_.Create("a");
  Watch watch = Open(1'000'000);
  const v1::WatchRunsResponse message = watch.Read();
  EXPECT_EQ(message.resync().revision(), Queue().revision());
  EXPECT_THAT(message.resync().reason(), HasSubstr("revision 1000000 is not reached yet"));
  EXPECT_EQ(watch.Finish().error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(WatchTest, TellsASlowOneToLookAnewAndHoldsUpNobody) {
  // As many runs as make each of its changes a message that does not fit into gRPC's window.
  const auto runs = served_.Create("a", 1000);
  Watch slow = Open(std::nullopt);
  Watch quick = Open(std::nullopt);
  for (int i = 0; i < 2; ++i) quick.Read();
  v1::UpdateRunsRequest all;
  all.mutable_selector()->set_experiment_id("exp-0001");
  all.set_actor("ada");
  v1::ChangeRunsResponse response;
  for (int priority = 1; priority <= 80; ++priority) {
    all.set_priority(priority);
    ASSERT_TRUE(served_.Update(all, &response).ok());
    for (int seen = 0; seen < 1000;) seen += quick.Read().runs_size();
  }
  v1::WatchRunsResponse message;
  while (!message.has_resync()) ASSERT_TRUE(slow.reader->Read(&message));
  EXPECT_THAT(message.resync().reason(), HasSubstr("too slow"));
  EXPECT_EQ(slow.Finish().error_code(), grpc::StatusCode::OUT_OF_RANGE);
  quick.Leave();
}

TEST_F(WatchTest, RefusesToResumeByState) {
  v1::WatchRunsRequest request;
  request.mutable_selector()->add_states(v1::QUEUED);
  request.set_since_revision(0);
  Watch watch;
  watch.reader = served_.runs().WatchRuns(watch.context.get(), request);
  EXPECT_EQ(watch.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WatchTest, ListsTheQueueInTheOrderOfPriorityInPagesAndSaysWhy) {
  const auto runs = served_.Create("a", 3);
  SetPriority(runs[2], 5);
  const v1::ListQueueResponse first = Queue(2);
  ASSERT_THAT(first.runs(), SizeIs(2));
  EXPECT_EQ(first.runs(0).run().id(), runs[2]);
  EXPECT_EQ(first.runs(0).position(), 1);
  EXPECT_THAT(first.runs(0).reason(), HasSubstr("worker"));
  EXPECT_FALSE(first.runs(0).run().has_spec());
  EXPECT_EQ(first.num_waiting(), 3);
  const v1::ListQueueResponse second = Queue(2, first.next_page_token());
  ASSERT_THAT(second.runs(), SizeIs(1));
  EXPECT_EQ(second.runs(0).run().id(), runs[1]);
  EXPECT_THAT(second.next_page_token(), IsEmpty());
}

TEST_F(WatchTest, RefusesAQueuePageTokenThatItNeverGave) {
  v1::ListQueueRequest request;
  request.set_page_token("exp-0001.01");
  grpc::ClientContext context;
  v1::ListQueueResponse response;
  EXPECT_EQ(served_.runs().ListQueue(&context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WatchTest, HoldsAndReleasesAWaitingRun) {
  const auto runs = served_.Create("a");
  v1::UpdateRunsRequest request = Change(runs[0]);
  request.set_held(true);
  v1::ChangeRunsResponse response;
  ASSERT_TRUE(served_.Update(request, &response).ok());
  EXPECT_EQ(response.changes(0).note(), "held");
  const v1::ListQueueResponse queue = Queue();
  EXPECT_EQ(queue.runs(1).run().id(), runs[0]) << "held runs come last";
  EXPECT_EQ(queue.runs(1).position(), 0);
  EXPECT_TRUE(queue.runs(1).run().held());
  ASSERT_TRUE(served_.Update(request, &response).ok());
  EXPECT_THAT(response.changes(0).note(), HasSubstr("was already held"));
  request.set_held(false);
  ASSERT_TRUE(served_.Update(request, &response).ok());
  EXPECT_EQ(Queue().runs(0).position(), 1);
}

TEST_F(WatchTest, LeavesAloneWhatIsNotWaiting) {
  const auto runs = served_.Create("a");
  served_.Cancel(runs[0]);
  v1::UpdateRunsRequest request = Change(runs[0]);
  request.set_priority(7);
  v1::ChangeRunsResponse response;
  ASSERT_TRUE(served_.Update(request, &response).ok());
  EXPECT_THAT(response.changes(0).note(), HasSubstr("not QUEUED; left alone"));
  request = Change("exp-0009.01");
  request.set_priority(1);
  EXPECT_EQ(served_.Update(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(WatchTest, CancelsTenThousandRunsInOneRequestAndOneBatch) {
  for (int i = 0; i < 10; ++i) served_.Create(std::to_string(i), 1000);
  const int commits_before = store_.num_commits;
  v1::RunSelector everything;
  everything.set_owner("ada");
  const v1::ChangeRunsResponse response = served_.Cancel(everything);
  ASSERT_THAT(response.changes(), SizeIs(10'000));
  for (const auto& change : response.changes()) ASSERT_EQ(change.after(), v1::CANCELLED);
  EXPECT_EQ(store_.num_commits, commits_before + 1);
  EXPECT_EQ(Queue().num_waiting(), 0);
}

}  // namespace
}  // namespace normlab
