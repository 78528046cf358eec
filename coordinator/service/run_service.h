#pragma once

#include "coordinator/service/engine_port.h"
#include "coordinator/service/log_hub.h"
#include "coordinator/service/watch_hub.h"
#include "coordinator/store/store.h"
#include "normlab/v1/run.grpc.pb.h"

namespace normlab::service {

/// See run.proto. Any thread. What only grows (events, history, logs) is read from the store on gRPC's threads.
class RunService final : public v1::RunService::CallbackService {
 public:
  RunService(EnginePort& engine, store::Store& store, WatchHub& watches, LogHub& logs)
      : engine_(engine), store_(store), watches_(watches), logs_(logs) {}

  grpc::ServerUnaryReactor* GetRun(grpc::CallbackServerContext* context, const v1::GetRunRequest* request,
                                   v1::Run* response) override;
  grpc::ServerUnaryReactor* ListRuns(grpc::CallbackServerContext* context, const v1::ListRunsRequest* request,
                                     v1::ListRunsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchRunsResponse>* WatchRuns(grpc::CallbackServerContext* context,
                                                             const v1::WatchRunsRequest* request) override;
  grpc::ServerUnaryReactor* CancelRuns(grpc::CallbackServerContext* context, const v1::CancelRunsRequest* request,
                                       v1::ChangeRunsResponse* response) override;
  grpc::ServerUnaryReactor* RequeueRuns(grpc::CallbackServerContext* context, const v1::RequeueRunsRequest* request,
                                        v1::ChangeRunsResponse* response) override;
  grpc::ServerUnaryReactor* UpdateRuns(grpc::CallbackServerContext* context, const v1::UpdateRunsRequest* request,
                                       v1::ChangeRunsResponse* response) override;
  grpc::ServerUnaryReactor* ListQueue(grpc::CallbackServerContext* context, const v1::ListQueueRequest* request,
                                      v1::ListQueueResponse* response) override;
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext* context, const v1::ListEventsRequest* request,
                                       v1::ListEventsResponse* response) override;
  grpc::ServerWriteReactor<v1::LogEntry>* StreamLogs(grpc::CallbackServerContext* context,
                                                     const v1::StreamLogsRequest* request) override;
  grpc::ServerUnaryReactor* GetHistorySummary(grpc::CallbackServerContext* context,
                                              const v1::GetHistorySummaryRequest* request,
                                              v1::HistorySummary* response) override;
  grpc::ServerUnaryReactor* GetMetrics(grpc::CallbackServerContext* context, const v1::GetMetricsRequest* request,
                                       v1::GetMetricsResponse* response) override;
  grpc::ServerUnaryReactor* RecordAnalysis(grpc::CallbackServerContext* context,
                                           const v1::RecordAnalysisRequest* request,
                                           v1::RecordAnalysisResponse* response) override;

 private:
  EnginePort& engine_;
  store::Store& store_;
  WatchHub& watches_;
  LogHub& logs_;
};

}  // namespace normlab::service
