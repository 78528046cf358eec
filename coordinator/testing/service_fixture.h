#pragma once

#include <google/protobuf/map.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include "common/version.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/testing/faulty_store.h"
#include "coordinator/testing/served.h"
#include "normlab/v1/admin.grpc.pb.h"
#include "normlab/v1/worker.grpc.pb.h"

// The services over a real loop and a real gRPC server, with a store in memory and a clock that stands still.
namespace normlab {

inline constexpr char kFirst[] = "exp-0001.01";
inline constexpr char kSecond[] = "exp-0001.02";

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

  const std::unique_ptr<store::Store> memory_store_ = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
  store::FaultyStore store_{*memory_store_};
  Served served_{store_};
  FakeClock& clock_ = served_.clock();
  Metrics& metrics_ = served_.metrics();
  Loop& loop_ = served_.loop();
  service::Server& server_ = served_.server();
  const std::shared_ptr<grpc::Channel> channel_ = served_.channel();
  const std::unique_ptr<v1::ExperimentService::Stub> experiments_ = v1::ExperimentService::NewStub(channel_);
  const std::unique_ptr<v1::RunService::Stub> runs_ = v1::RunService::NewStub(channel_);
  const std::unique_ptr<v1::WorkerService::Stub> workers_ = v1::WorkerService::NewStub(channel_);
  const std::unique_ptr<v1::AdminService::Stub> admin_ = v1::AdminService::NewStub(channel_);
};

}  // namespace normlab
