#include <gmock/gmock.h>
#include <google/protobuf/map.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/testing/fake_clock.h"
#include "common/version.h"
#include "coordinator/http_server.h"
#include "coordinator/loop.h"
#include "coordinator/service/server.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/testing/faulty_store.h"
#include "normlab/v1/admin.grpc.pb.h"
#include "normlab/v1/experiment.grpc.pb.h"
#include "normlab/v1/run.grpc.pb.h"
#include "normlab/v1/worker.grpc.pb.h"

// The services over a real loop and a real gRPC server, with a store in memory and a clock that stands still.
namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kFirst[] = "exp-0001.01";
constexpr char kSecond[] = "exp-0001.02";

/// A worker's side of a session.
class FakeWorker {
 public:
  FakeWorker(v1::WorkerService::Stub& stub, std::string id) : id_(std::move(id)), stream_(stub.Session(&context_)) {}
  ~FakeWorker() {
    context_.TryCancel();
    if (!is_finished_) Finish();
  }

  void Hello(int protocol_version = kProtocolVersion) {
    v1::WorkerMessage message;
    message.mutable_hello()->set_worker_id(id_);
    message.mutable_hello()->set_incarnation("i-1");
    message.mutable_hello()->set_protocol_version(protocol_version);
    message.mutable_hello()->mutable_info()->set_host("h");
    message.mutable_hello()->mutable_info()->set_metrics_address("127.0.0.1:9");
    stream_->Write(message);
  }

  void Heartbeat() {
    v1::WorkerMessage message;
    message.mutable_heartbeat();
    stream_->Write(message);
  }

  /// Sends a report of rank 0 of attempt 1 of the first run.
  void Report(v1::AttemptReport report) {
    v1::WorkerMessage message;
    report.set_sequence(++sequence_);
    report.mutable_attempt()->set_run_id(kFirst);
    report.mutable_attempt()->set_attempt(1);
    *message.mutable_report() = std::move(report);
    stream_->Write(message);
  }

  void ReportLog(const std::string& text) {
    v1::AttemptReport report;
    report.mutable_event()->mutable_log()->set_text(text);
    Report(report);
  }

  void ReportStep(int64_t step, double loss) {
    v1::AttemptReport report;
    report.mutable_event()->mutable_step()->set_step(step);
    report.mutable_event()->mutable_step()->set_loss(loss);
    Report(report);
  }

  /// The whole life of a run in one go.
  void FinishRun() {
    v1::AttemptReport report;
    report.mutable_event()->mutable_started()->set_first_step(1);
    Report(report);
    ReportStep(10, 2.5);
    ReportLog("last words");
    report.mutable_event()->mutable_finished()->set_step(10);
    Report(report);
    report.mutable_exit()->set_code(0);
    Report(report);
  }

  /// The next message of this kind; an empty one if the stream ends before it.
  v1::CoordinatorMessage ReadUntil(v1::CoordinatorMessage::MessageCase kind) {
    v1::CoordinatorMessage message;
    while (stream_->Read(&message)) {
      if (message.message_case() == kind) return message;
    }
    return {};
  }

  void ReadUntilAcked(int64_t sequence) {
    while (true) {
      const v1::CoordinatorMessage message = ReadUntil(v1::CoordinatorMessage::kAck);
      if (!message.has_ack() || message.ack().sequence() >= sequence) return;
    }
  }

  int64_t sequence() const { return sequence_; }

  grpc::Status Finish() {
    v1::CoordinatorMessage message;
    while (stream_->Read(&message)) {
    }
    is_finished_ = true;
    return stream_->Finish();
  }

  void Disconnect() { stream_->WritesDone(); }

 private:
  std::string id_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>> stream_;
  int64_t sequence_ = 0;
  bool is_finished_ = false;
};

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    memory_store_ = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
    store_ = std::make_unique<store::FaultyStore>(*memory_store_);
    loop_ = *Loop::Create(engine::Options(), *store_, clock_, metrics_);
    server_ = std::make_unique<service::Server>(
        *loop_, *store_,
        service::Server::Options{
            .address = {.host = "127.0.0.1"},
            .http_address = "127.0.0.1:1",
            .on_call_done = [this](const std::string& method, const std::string& code, absl::Duration took) {
              metrics_.ObserveCall(method, code, absl::ToDoubleSeconds(took));
            }});
    for (service::TickListener* listener : server_->listeners()) loop_->AddListener(listener);
    const absl::Status listens = server_->Listen();
    ASSERT_TRUE(listens.ok()) << listens;
    thread_ = std::thread([this] { ran_ = loop_->Run(); });
    channel_ = server_->InProcessChannel();
    experiments_ = v1::ExperimentService::NewStub(channel_);
    runs_ = v1::RunService::NewStub(channel_);
    workers_ = v1::WorkerService::NewStub(channel_);
    admin_ = v1::AdminService::NewStub(channel_);
  }

  void TearDown() override {
    server_->Shutdown(absl::ZeroDuration());
    loop_->Stop();
    thread_.join();
  }

  grpc::Status Create(const std::string& request_id, v1::CreateExperimentResponse* response,
                      const v1::ExperimentSpec& spec = MakeSpec()) {
    grpc::ClientContext context;
    v1::CreateExperimentRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    request.set_owner("ada");
    return experiments_->CreateExperiment(&context, request, response);
  }

  void CreateOrFail(const std::string& request_id) {
    v1::CreateExperimentResponse response;
    const grpc::Status status = Create(request_id, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  v1::Run Get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetRunRequest request;
    request.set_id(id);
    v1::Run run;
    const grpc::Status status = runs_->GetRun(&context, request, &run);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return run;
  }

  grpc::Status Cancel(const std::string& run, v1::ChangeRunsResponse* response) {
    grpc::ClientContext context;
    v1::CancelRunsRequest request;
    request.mutable_selector()->add_run_ids(run);
    request.set_actor("ada");
    return runs_->CancelRuns(&context, request, response);
  }

  v1::ListRunsResponse List(v1::ListRunsRequest request) {
    grpc::ClientContext context;
    v1::ListRunsResponse response;
    EXPECT_TRUE(runs_->ListRuns(&context, request, &response).ok());
    return response;
  }

  v1::Worker GetWorker() {
    grpc::ClientContext context;
    v1::ListWorkersResponse response;
    EXPECT_TRUE(workers_->ListWorkers(&context, {}, &response).ok());
    return response.workers_size() == 1 ? response.workers(0) : v1::Worker();
  }

  /// Sends serialized bytes to any method and returns the first answer's.
  std::string CallRaw(const std::string& method, const std::string& request) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareCall(&context, method, &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      queue.Next(&tag, &ok);
      return ok;
    };
    call->StartCall(nullptr);
    wait();
    const grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), {}, nullptr);
    wait();
    grpc::ByteBuffer answer;
    call->Read(&answer, nullptr);
    if (!wait()) return "no answer";
    grpc::Slice bytes;
    EXPECT_TRUE(answer.DumpToSingleSlice(&bytes).ok());
    context.TryCancel();
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
  }

  FakeClock clock_;
  Metrics metrics_;
  std::unique_ptr<store::Store> memory_store_;
  std::unique_ptr<store::FaultyStore> store_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<service::Server> server_;
  std::thread thread_;
  absl::Status ran_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ExperimentService::Stub> experiments_;
  std::unique_ptr<v1::RunService::Stub> runs_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

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
  EXPECT_EQ(store_->num_commits, 0);
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
  store_->fails = true;
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
  EXPECT_THAT(metrics_.ToText(),
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
  service::Server second(*loop_, *store_,
                         {.address = *service::ParseListenAddress(server_->address()), .http_address = "127.0.0.1:1"});
  const absl::Status status = second.Listen();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_->address()));
}

v1::RecordAnalysisRequest MakeAnalysis(int64_t step, double loss_without) {
  v1::RecordAnalysisRequest request;
  request.set_run_id(kFirst);
  request.set_actor("ada");
  v1::Analysis* analysis = request.mutable_analysis();
  analysis->set_step(step);
  analysis->set_attempt(1);
  for (int layer = 1; layer <= 2; ++layer) {
    v1::LayerAnalysis* added = analysis->add_layers();
    added->set_layer(layer);
    added->set_loss_without(loss_without);
    for (int n = 1; n <= 3 - layer; ++n) added->add_angular_distance(0.25F * static_cast<float>(n));
  }
  return request;
}

TEST_F(ServiceTest, KeepsWhatAStartedTrainerSaidOfItsEnvironmentWithTheAttempt) {
  CreateOrFail("q");
  FakeWorker worker(*workers_, "w-1");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kStart);
  v1::AttemptReport report;
  report.mutable_event()->mutable_started()->set_first_step(1);
  report.mutable_event()->mutable_started()->set_torch_version("2.11.0");
  worker.Report(report);
  worker.ReadUntilAcked(worker.sequence());
  EXPECT_EQ(Get(kFirst).environment().started().torch_version(), "2.11.0");
  EXPECT_EQ(Get(kFirst).environment().worker_host(), "h");
  EXPECT_EQ(Get(kFirst).environment().world_size(), 1);
  grpc::ClientContext context;
  v1::ListEventsRequest request;
  request.set_run_id(kFirst);
  v1::ListEventsResponse events;
  ASSERT_TRUE(runs_->ListEvents(&context, request, &events).ok());
  const v1::Event& started = events.events(events.events_size() - 1);
  EXPECT_EQ(started.state(), v1::RUNNING);
  EXPECT_EQ(started.environment().started().torch_version(), "2.11.0");
}

TEST_F(ServiceTest, StoresAnAnalysisBesideTheMetricsOfItsStepAndReplacesIt) {
  CreateOrFail("q");
  FakeWorker worker(*workers_, "w-1");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kStart);
  worker.FinishRun();
  worker.ReadUntilAcked(worker.sequence());
  v1::RecordAnalysisResponse response;
  for (const double loss : {3.0, 4.0}) {
    grpc::ClientContext context;
    const grpc::Status status = runs_->RecordAnalysis(&context, MakeAnalysis(10, loss), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.replaced(), loss == 4.0);
  }
  EXPECT_THAT(Get(kFirst).progress().analysis_steps(), ElementsAre(10));
  grpc::ClientContext context;
  v1::GetMetricsRequest request;
  request.set_run_id(kFirst);
  v1::GetMetricsResponse metrics;
  ASSERT_TRUE(runs_->GetMetrics(&context, request, &metrics).ok());
  ASSERT_THAT(metrics.steps(), SizeIs(1));
  EXPECT_EQ(metrics.steps(0).report().loss(), 2.5);
  EXPECT_EQ(metrics.steps(0).analysis().layers(0).loss_without(), 4);
  EXPECT_EQ(metrics.steps(0).analysis().actor(), "user:ada");
}

TEST_F(ServiceTest, RefusesAnAnalysisThatCannotBeOfTheRunsHistory) {
  CreateOrFail("q");
  FakeWorker worker(*workers_, "w-1");
  worker.Hello();
  worker.ReadUntil(v1::CoordinatorMessage::kStart);
  worker.FinishRun();
  worker.ReadUntilAcked(worker.sequence());
  const auto record = [&](const v1::RecordAnalysisRequest& request) {
    grpc::ClientContext context;
    v1::RecordAnalysisResponse response;
    return runs_->RecordAnalysis(&context, request, &response).error_code();
  };
  EXPECT_EQ(record(MakeAnalysis(11, 3)), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(record(MakeAnalysis(0, 3)), grpc::INVALID_ARGUMENT);
  v1::RecordAnalysisRequest request = MakeAnalysis(10, 3);
  request.mutable_analysis()->set_attempt(2);
  EXPECT_EQ(record(request), grpc::FAILED_PRECONDITION);
  request = MakeAnalysis(10, 3);
  request.mutable_analysis()->mutable_layers(1)->add_angular_distance(0.5);
  EXPECT_EQ(record(request), grpc::INVALID_ARGUMENT);
  request = MakeAnalysis(10, 3);
  request.set_run_id("exp-0001.09");
  EXPECT_EQ(record(request), grpc::NOT_FOUND);
}

}  // namespace
}  // namespace normlab
