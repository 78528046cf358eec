// Commands against a coordinator that is played by the test.
#include "cli/client.h"

#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <set>
#include <thread>

#include "cli/follow.h"
#include "cli/session.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

using ::testing::HasSubstr;

// Before gRPC starts threads: a thread without this mask would take the signal, and end the process.
const bool kIsBlocked = [] {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGINT);
  return pthread_sigmask(SIG_BLOCK, &mask, nullptr) == 0;
}();

class FakeExperiments : public v1::ExperimentService::Service {
 public:
  grpc::Status CreateExperiment(grpc::ServerContext*, const v1::CreateExperimentRequest* request,
                                v1::CreateExperimentResponse* response) override {
    // Stores, but the first answer is lost.
    const bool is_new = stored.insert(request->request_id()).second;
    if (calls++ == 0) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection reset");
    response->set_already_existed(!is_new);
    return grpc::Status::OK;
  }
  grpc::Status ListExperiments(grpc::ServerContext*, const v1::ListExperimentsRequest* request,
                               v1::ListExperimentsResponse* response) override {
    response->add_experiments()->set_id("exp-" + request->page_token());
    if (request->page_token().empty()) response->set_next_page_token("2");
    return grpc::Status::OK;
  }
  std::set<std::string> stored;
  int calls = 0;
};

class FakeRuns : public v1::RunService::Service {
 public:
  grpc::Status WatchRuns(grpc::ServerContext* context, const v1::WatchRunsRequest*,
                         grpc::ServerWriter<v1::WatchRunsResponse>* writer) override {
    v1::WatchRunsResponse response;
    response.set_revision(++streams);
    writer->Write(response);
    if (streams == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
    while (is_endless && !context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  }
  grpc::Status GetHistorySummary(grpc::ServerContext*, const v1::GetHistorySummaryRequest*,
                                 v1::HistorySummary* summary) override {
    if (summaries++ == 0) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection reset");
    summary->set_num_steps(7);
    return grpc::Status::OK;
  }
  std::atomic<int> streams = 0;
  std::atomic<int> summaries = 0;
  std::atomic<bool> is_endless = false;
};

class FakeBackups : public v1::BackupService::Service {
 public:
  grpc::Status CreateBackup(grpc::ServerContext*, const v1::CreateBackupRequest*,
                            grpc::ServerWriter<v1::BackupProgress>* writer) override {
    ++made;
    v1::BackupProgress progress;
    progress.set_bytes_done(1);
    writer->Write(progress);
    if (is_going_away) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going away");
    progress.mutable_backup()->set_name("backup-1");
    writer->Write(progress);
    return grpc::Status::OK;
  }
  grpc::Status ListBackups(grpc::ServerContext*, const v1::ListBackupsRequest*,
                           v1::ListBackupsResponse* response) override {
    if (lists++ == 0) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection reset");
    response->add_backups()->set_name("backup-1");
    return grpc::Status::OK;
  }
  std::atomic<int> made = 0;
  std::atomic<int> lists = 0;
  std::atomic<bool> is_going_away = false;
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&experiments_);
    builder.RegisterService(&runs_);
    builder.RegisterService(&backups_);
    server_ = builder.BuildAndStart();
    address_ = fmt::format("127.0.0.1:{}", port);
  }

  FakeExperiments experiments_;
  FakeRuns runs_;
  FakeBackups backups_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(ClientTest, ASubmitWhoseAnswerIsLostIsRepeatedWithTheSameRequestId) {
  int notes = 0;
  Client client(address_, [&](const std::string&) { ++notes; });
  v1::CreateExperimentRequest request;
  request.set_request_id(NewRequestId());
  const auto response = client.CreateExperiment(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_TRUE(response->already_existed());
  EXPECT_EQ(experiments_.stored.size(), 1);
  EXPECT_EQ(experiments_.calls, 2);
  EXPECT_EQ(notes, 1);
}

TEST_F(ClientTest, ListsReadAllPages) {
  Client client(address_, [](const std::string&) {});
  const auto all = client.ListExperiments();
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 2);
  EXPECT_EQ((*all)[1].id(), "exp-2");
}

TEST_F(ClientTest, AnUnreachableCoordinatorIsNamedWithWhatToDo) {
  server_->Shutdown();
  Client client(address_, [](const std::string&) {});
  const auto info = client.GetInfo();
  EXPECT_EQ(info.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(info.status().message()), HasSubstr("no coordinator answers at " + address_));
  EXPECT_THAT(std::string(info.status().message()), HasSubstr("normlab up"));
}

TEST_F(ClientTest, ReadsOfHistoriesAndBackupsAreTriedAgain) {
  Client client(address_, [](const std::string&) {});
  const auto summary = client.GetHistorySummary("exp-0001.01");
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->num_steps(), 7);
  const auto backups = client.ListBackups();
  ASSERT_TRUE(backups.ok()) << backups.status();
  EXPECT_EQ(backups->backups_size(), 1);
}

TEST_F(ClientTest, ABackupIsMadeOnceAndAnUnreachableCoordinatorNamed) {
  Client client(address_, [](const std::string&) {});
  int steps = 0;
  const auto backup = client.CreateBackup({}, [&](const v1::BackupProgress&) { ++steps; });
  ASSERT_TRUE(backup.ok()) << backup.status();
  EXPECT_EQ(backup->name(), "backup-1");
  EXPECT_EQ(steps, 2);
  backups_.is_going_away = true;
  const absl::Status lost = client.CreateBackup({}, [](const v1::BackupProgress&) {}).status();
  EXPECT_EQ(backups_.made, 2);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("no coordinator answers at " + address_));
}

TEST_F(ClientTest, AfterCancelNothingIsSent) {
  Client client(address_, [](const std::string&) {});
  client.CancelCalls();
  EXPECT_EQ(client.ListBackups().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(backups_.lists, 0);
}

TEST_F(ClientTest, AStreamIsOpenedAgainWhenItBreaksAndEndsWhenTheServerEndsIt) {
  Interrupt interrupt;
  Client client(address_, [](const std::string&) {});
  std::vector<int64_t> revisions;
  int lost = 0;
  const absl::Status status = Follow<v1::WatchRunsResponse>(
      client, interrupt, [&](grpc::ClientContext* context) { return client.WatchRuns(context, {}); },
      [&](const v1::WatchRunsResponse& response) { revisions.push_back(response.revision()); },
      [&](const std::string&) { ++lost; });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(revisions, ::testing::ElementsAre(1, 2));
  EXPECT_EQ(lost, 1);
}

TEST_F(ClientTest, CtrlCEndsAStream) {
  ASSERT_TRUE(kIsBlocked);
  runs_.streams = 1;
  runs_.is_endless = true;
  Interrupt interrupt;
  Client client(address_, [](const std::string&) {});
  const absl::Status status = Follow<v1::WatchRunsResponse>(
      client, interrupt, [&](grpc::ClientContext* context) { return client.WatchRuns(context, {}); },
      [&](const v1::WatchRunsResponse&) { kill(getpid(), SIGINT); }, [](const std::string&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST(SelectorTest, RunsExperimentsAndLabelsAreTold) {
  EXPECT_EQ(ParseSelector({"exp-0001.01", "exp-0002.01"}, {})->run_ids_size(), 2);
  EXPECT_EQ(ParseSelector({"exp-0001"}, {})->experiment_id(), "exp-0001");
  EXPECT_EQ(ParseSelector({}, {"team=a=b"})->labels().at("team"), "a=b");
  EXPECT_EQ(ParseSelector({"exp-1x"}, {}).status().message(),
            "'exp-1x' is neither a run (exp-0001.03) nor an experiment (exp-0001)");
  EXPECT_FALSE(ParseSelector({"exp-0001", "exp-0001.01"}, {}).ok());
  EXPECT_FALSE(ParseSelector({}, {"team"}).ok());
  EXPECT_FALSE(ParseSelector({}, {"=x"}).ok());
}

TEST(StateTest, NamesAreReadInAnyCaseAndMistypedOnesSuggested) {
  EXPECT_EQ(*ParseState("running"), v1::RUNNING);
  EXPECT_EQ(*ParseState("QUEUED"), v1::QUEUED);
  EXPECT_THAT(std::string(ParseState("runing").status().message()), HasSubstr("did you mean 'running'?"));
  EXPECT_FALSE(ParseState("run_state_unspecified").ok());
}

}  // namespace
}  // namespace normlab::cli
