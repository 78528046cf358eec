#include <gmock/gmock.h>

#include "common/metrics_page.h"
#include "coordinator/http_server.h"
#include "coordinator/testing/service_fixture.h"

namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST_F(ServiceTest, CreatesAnExperimentAndAnswersARepeatedRequestWithTheSame) {
  v1::CreateExperimentResponse first, second;
  ASSERT_TRUE(Create("q-1", &first).ok());
  EXPECT_THAT(first.run_ids(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(first.experiment().runs_by_state().at("QUEUED"), 2);
  EXPECT_EQ(first.experiment().spec().base().train().batch_size(), 32) << "defaults are filled in";
  EXPECT_FALSE(first.already_existed());
  ASSERT_TRUE(Create("q-1", &second).ok());
  EXPECT_EQ(second.experiment().id(), first.experiment().id());
  EXPECT_TRUE(second.already_existed());
  v1::ExperimentSpec other = MakeSpec();
  other.set_name("other");
  EXPECT_EQ(Create("q-1", &second, other).error_code(), grpc::ALREADY_EXISTS);
}

TEST_F(ServiceTest, RefusesAWrongSpecAndStoresNothing) {
  v1::ExperimentSpec spec = MakeSpec();
  spec.mutable_base()->mutable_model()->set_hidden(1);
  v1::CreateExperimentResponse response;
  const grpc::Status status = Create("q", &response, spec);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("base.model.hidden"));
  EXPECT_EQ(store_.num_commits, 0);
}

TEST_F(ServiceTest, ListsExperimentsNewestFirstInPages) {
  for (const char* id : {"a", "b", "c"}) CreateOrFail(id);
  v1::ListExperimentsRequest request;
  request.set_page_size(2);
  v1::ListExperimentsResponse page;
  grpc::ClientContext first, second;
  ASSERT_TRUE(experiments_->ListExperiments(&first, request, &page).ok());
  ASSERT_THAT(page.experiments(), SizeIs(2));
  EXPECT_EQ(page.experiments(0).id(), "exp-0003");
  request.set_page_token(page.next_page_token());
  ASSERT_TRUE(experiments_->ListExperiments(&second, request, &page).ok());
  ASSERT_THAT(page.experiments(), SizeIs(1));
  EXPECT_EQ(page.experiments(0).id(), "exp-0001");
  EXPECT_EQ(page.next_page_token(), "");
}

TEST_F(ServiceTest, ListsRunsInPagesThatMeet) {
  for (const char* id : {"a", "b"}) CreateOrFail(id);
  v1::ListRunsRequest request;
  request.set_page_size(3);
  v1::ListRunsResponse page = List(request);
  ASSERT_THAT(page.runs(), SizeIs(3));
  EXPECT_EQ(page.runs(2).id(), "exp-0002.01");
  request.set_page_token(page.next_page_token());
  page = List(request);
  ASSERT_THAT(page.runs(), SizeIs(1));
  EXPECT_EQ(page.runs(0).id(), "exp-0002.02");
  EXPECT_EQ(page.next_page_token(), "");
}

TEST_F(ServiceTest, ListsTheRunsThatASelectorChooses) {
  for (const char* id : {"a", "b"}) CreateOrFail(id);
  v1::ListRunsRequest request;
  request.mutable_selector()->set_experiment_id("exp-0002");
  EXPECT_THAT(List(request).runs(), SizeIs(2));
  request.mutable_selector()->add_run_ids("exp-0002.02");
  request.mutable_selector()->add_run_ids("exp-0001.02");
  ASSERT_THAT(List(request).runs(), SizeIs(1));
  request.mutable_selector()->add_states(v1::RUNNING);
  EXPECT_THAT(List(request).runs(), SizeIs(0));
}

TEST_F(ServiceTest, SaysWhatIsNotThere) {
  grpc::ClientContext context;
  v1::GetRunRequest request;
  request.set_id("exp-0009.01");
  v1::Run run;
  const grpc::Status status = runs_->GetRun(&context, request, &run);
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "there is no run exp-0009.01");
}

TEST_F(ServiceTest, ExplainsWhyARunWaitsAtTheCall) {
  CreateOrFail("a");
  EXPECT_THAT(Get(kFirst).reason(), HasSubstr("worker"));
}

TEST_F(ServiceTest, CancelsAWaitingRunOnce) {
  CreateOrFail("a");
  v1::ChangeRunsResponse response;
  ASSERT_TRUE(Cancel(kFirst, &response).ok());
  ASSERT_THAT(response.changes(), SizeIs(1));
  EXPECT_EQ(response.changes(0).before(), v1::QUEUED);
  EXPECT_EQ(response.changes(0).after(), v1::CANCELLED);
  ASSERT_TRUE(Cancel(kFirst, &response).ok());
  EXPECT_EQ(response.changes(0).after(), v1::CANCELLED);
  EXPECT_EQ(Cancel("exp-0009.01", &response).error_code(), grpc::NOT_FOUND);

  grpc::ClientContext context;
  v1::ListEventsRequest request;
  request.set_run_id(kFirst);
  v1::ListEventsResponse events;
  ASSERT_TRUE(runs_->ListEvents(&context, request, &events).ok());
  ASSERT_THAT(events.events(), SizeIs(2));
  EXPECT_EQ(events.events(1).actor(), "user:ada");
}

TEST_F(ServiceTest, RequeuesATerminalRunAndNoOther) {
  CreateOrFail("a");
  v1::ChangeRunsResponse response;
  ASSERT_TRUE(Cancel(kFirst, &response).ok());
  v1::RequeueRunsRequest request;
  request.mutable_selector()->set_experiment_id("exp-0001");
  request.set_actor("ada");
  grpc::ClientContext all, one;
  EXPECT_EQ(runs_->RequeueRuns(&all, request, &response).error_code(), grpc::FAILED_PRECONDITION);
  request.mutable_selector()->add_run_ids(kFirst);
  ASSERT_TRUE(runs_->RequeueRuns(&one, request, &response).ok());
  EXPECT_EQ(Get(kFirst).state(), v1::QUEUED);
}

TEST_F(ServiceTest, WatchesUntilAllAreTerminal) {
  CreateOrFail("a");
  grpc::ClientContext context;
  v1::WatchRunsRequest request;
  request.mutable_selector()->set_experiment_id("exp-0001");
  request.set_until_terminal(true);
  auto stream = runs_->WatchRuns(&context, request);
  v1::WatchRunsResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_THAT(message.runs(), SizeIs(2));
  v1::ChangeRunsResponse response;
  ASSERT_TRUE(Cancel(kSecond, &response).ok());
  ASSERT_TRUE(stream->Read(&message));
  ASSERT_THAT(message.runs(), SizeIs(1));
  EXPECT_EQ(message.runs(0).state(), v1::CANCELLED);
  const int64_t revision = message.revision();
  ASSERT_TRUE(Cancel(kFirst, &response).ok());
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_GT(message.revision(), revision);
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServiceTest, WatchesNothingThatDoesNotExist) {
  grpc::ClientContext context;
  v1::WatchRunsRequest request;
  request.mutable_selector()->set_experiment_id("exp-0001");
  auto stream = runs_->WatchRuns(&context, request);
  v1::WatchRunsResponse message;
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_EQ(stream->Finish().error_code(), grpc::NOT_FOUND);
}

TEST_F(ServiceTest, TakesARunThroughASession) {
  CreateOrFail("a");
  FakeWorker worker(*workers_, "w-0");
  worker.Hello();
  const v1::CoordinatorMessage welcome = worker.ReadUntil(v1::CoordinatorMessage::kWelcome);
  EXPECT_EQ(welcome.welcome().lease().seconds(), 30);
  const v1::CoordinatorMessage start = worker.ReadUntil(v1::CoordinatorMessage::kStart);
  EXPECT_EQ(start.start().attempt().run_id(), kFirst);
  EXPECT_EQ(start.start().experiment_id(), "exp-0001");
  EXPECT_EQ(start.start().spec().norm().scheme(), "pre_ln");
  EXPECT_EQ(GetWorker().state(), v1::Worker::BUSY);
  worker.FinishRun();
  worker.ReadUntilAcked(worker.sequence());
  EXPECT_EQ(Get(kFirst).state(), v1::SUCCEEDED);
  EXPECT_EQ(Get(kFirst).progress().loss(), 2.5);
  worker.Heartbeat();
  EXPECT_TRUE(worker.ReadUntil(v1::CoordinatorMessage::kLeaseRenewed).has_lease_renewed());

  grpc::ClientContext context;
  v1::GetMetricsRequest request;
  request.set_run_id(kFirst);
  v1::GetMetricsResponse metrics;
  ASSERT_TRUE(runs_->GetMetrics(&context, request, &metrics).ok());
  ASSERT_THAT(metrics.steps(), SizeIs(1));
  EXPECT_EQ(metrics.steps(0).report().loss(), 2.5);
}

TEST_F(ServiceTest, FollowsLogsUntilTheRunIsTerminal) {
  CreateOrFail("a");
  FakeWorker worker(*workers_, "w-0");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kStart);
  worker.ReportLog("one");
  worker.ReportLog("two");
  worker.ReadUntilAcked(2);
  grpc::ClientContext context;
  v1::StreamLogsRequest request;
  request.set_run_id(kFirst);
  request.set_follow(true);
  request.set_tail(1);
  auto stream = runs_->StreamLogs(&context, request);
  v1::LogEntry entry;
  ASSERT_TRUE(stream->Read(&entry));
  EXPECT_EQ(entry.line().text(), "two");
  worker.ReportLog("three");
  ASSERT_TRUE(stream->Read(&entry));
  EXPECT_EQ(entry.line().text(), "three");
  worker.FinishRun();
  ASSERT_TRUE(stream->Read(&entry));
  EXPECT_EQ(entry.line().text(), "last words");
  EXPECT_FALSE(stream->Read(&entry));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServiceTest, EndsAnOlderSessionOfTheSameWorker) {
  FakeWorker first(*workers_, "w-0");
  first.Hello();
  first.ReadUntil(v1::CoordinatorMessage::kWelcome);
  FakeWorker second(*workers_, "w-0");
  second.Hello();
  EXPECT_TRUE(second.ReadUntil(v1::CoordinatorMessage::kWelcome).has_welcome());
  EXPECT_EQ(first.Finish().error_code(), grpc::ABORTED);
  EXPECT_EQ(GetWorker().state(), v1::Worker::IDLE) << "the old stream's end says nothing of the worker";
}

TEST_F(ServiceTest, KnowsAWorkerWhoseStreamClosedAsUnreachable) {
  FakeWorker worker(*workers_, "w-0");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kWelcome);
  worker.Disconnect();
  worker.Finish();
  // The client can see the end of the stream before the engine does.
  while (GetWorker().state() != v1::Worker::UNREACHABLE) std::this_thread::yield();
}

TEST_F(ServiceTest, RefusesASessionThatDoesNotBeginWithAHello) {
  FakeWorker worker(*workers_, "w-0");
  worker.Heartbeat();
  EXPECT_EQ(worker.Finish().error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, RefusesAWorkerOfAnotherProtocolVersionAndNamesBoth) {
  FakeWorker worker(*workers_, "w-0");
  worker.Hello(kProtocolVersion + 1);
  const grpc::Status status = worker.Finish();
  EXPECT_EQ(status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("speaks protocol version 2"));
  EXPECT_THAT(status.error_message(), HasSubstr("speaks 1"));
}

TEST_F(ServiceTest, EndsTheSessionOfAWorkerWhoseLeaseWasOver) {
  FakeWorker worker(*workers_, "w-0");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kWelcome);
  clock_.Advance(2 * engine::Options().lease);
  GetWorker();  // Wakes the loop, whose tick ends the lease.
  worker.Heartbeat();
  EXPECT_EQ(worker.Finish().error_code(), grpc::FAILED_PRECONDITION);
}

TEST_F(ServiceTest, CordonsAWorker) {
  FakeWorker worker(*workers_, "w-0");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kWelcome);
  v1::SetWorkerCordonRequest request;
  request.set_worker_id("w-0");
  request.set_cordoned(true);
  request.set_actor("ada");
  v1::SetWorkerCordonResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(admin_->SetWorkerCordon(&context, request, &response).ok());
  EXPECT_TRUE(response.changed());
  EXPECT_TRUE(GetWorker().cordoned());
}

TEST_F(ServiceTest, AnswersUnavailableWhenTheDiskIsFull) {
  store_.fails = true;
  v1::CreateExperimentResponse response;
  const grpc::Status status = Create("a", &response);
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("not stored"));
  EXPECT_EQ(Create("b", &response).error_code(), grpc::UNAVAILABLE);
}

TEST_F(ServiceTest, CountsItselfAndItsCalls) {
  CreateOrFail("a");
  grpc::ClientContext context;
  v1::Info info;
  ASSERT_TRUE(admin_->GetInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.num_runs(), 2);
  EXPECT_EQ(info.http_address(), "127.0.0.1:1");
  EXPECT_THAT(MakeMetricsPage(metrics_.Collect(std::nullopt), "").body,
              HasSubstr("normlab_rpc_seconds_count{code=\"OK\",method=\"ExperimentService/CreateExperiment\"} 1"));
}

TEST_F(ServiceTest, IsHealthyAndDescribesItsServices) {
  EXPECT_EQ(CallRaw("/grpc.health.v1.Health/Check", ""), std::string("\x08\x01"));  // status: SERVING
  // ServerReflectionRequest{list_services: ""}
  const std::string services =
      CallRaw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\x00", 2));
  for (const char* name : {"ExperimentService", "RunService", "WorkerService", "AdminService"}) {
    EXPECT_THAT(services, HasSubstr(std::string("normlab.v1.") + name));
  }
}

TEST_F(ServiceTest, DoesNotShareItsPort) {
  service::Server second(loop_, store_,
                         {.address = *service::ParseListenAddress(server_.address()), .http_address = "127.0.0.1:1"});
  const absl::Status status = second.Listen();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_.address()));
}

}  // namespace
}  // namespace normlab
