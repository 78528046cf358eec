// What the history keeps beside metrics: with what a run was trained, and what was measured of it afterwards.
#include <gmock/gmock.h>

#include "coordinator/testing/service_fixture.h"

namespace normlab {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

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
