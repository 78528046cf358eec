#include "coordinator/service/run_service.h"

#include <absl/strings/numbers.h>
#include <fmt/format.h>

#include <iterator>
#include <optional>

#include "common/status.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/run_scan.h"
#include "coordinator/service/unary.h"
#include "coordinator/store/convert.h"

namespace normlab::service {
namespace {

/// A stream that is refused before it begins.
template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

absl::Status CheckExists(const View& view, RunId id) {
  if (view.state.runs.contains(id)) return absl::OkStatus();
  return absl::NotFoundError(fmt::format("there is no run {}", id.ToString()));
}

/// Runs that `selector` chooses behind `after`, in order of id.
absl::Status FillPage(const View& view, const engine::Selector& selector, std::optional<RunId> after, int page_size,
                      v1::ListRunsResponse* response) {
  size_t bytes = 0;
  int num_scanned = 0;
  RunId last{};
  ScanRuns(view.state, selector, after, [&](const engine::Run& run, bool is_chosen) {
    if (response->runs_size() >= page_size || bytes >= kPageBytesMax || num_scanned >= kRunsScannedMax) {
      response->set_next_page_token(last.ToString());
      return false;
    }
    last = run.id;
    ++num_scanned;
    if (is_chosen) {
      v1::Run* added = response->add_runs();
      *added = ToListedRun(run);
      bytes += added->ByteSizeLong();
    }
    return true;
  });
  response->set_revision(view.state.revision);
  return absl::OkStatus();
}

/// Steps behind `after_step` until the page is full, read in pieces because a step's size is not known before.
absl::Status FillHistory(store::Store& store, RunId run, int64_t after_step, int page_size,
                         v1::GetMetricsResponse* response) {
  constexpr int kStepsPerRead = 200;
  size_t bytes = 0;
  while (true) {
    NORMLAB_ASSIGN_OR_RETURN(const auto steps, store.History(run, after_step, kStepsPerRead));
    for (const v1::StepHistory& step : steps) {
      if (response->steps_size() >= page_size || bytes >= kPageBytesMax) {
        response->set_has_more(true);
        return absl::OkStatus();
      }
      *response->add_steps() = step;
      bytes += step.ByteSizeLong();
      after_step = step.step();
    }
    if (static_cast<int>(steps.size()) < kStepsPerRead) return absl::OkStatus();
  }
}

/// Waiting runs behind the first `offset`.
void FillQueue(const View& view, size_t offset, size_t page_size, v1::ListQueueResponse* response) {
  const std::vector<WaitingRun> waiting = view.list_waiting(offset, page_size);
  for (const WaitingRun& entry : waiting) {
    v1::WaitingRun* added = response->add_runs();
    *added->mutable_run() = ToListedRun(view.state.runs.at(entry.run));
    added->mutable_run()->clear_spec();
    added->mutable_run()->clear_progress();
    added->set_position(entry.position);
    added->set_reason(entry.reason);
  }
  response->set_num_waiting(static_cast<int64_t>(view.state.queue.size()));
  response->set_revision(view.state.revision);
  if (waiting.size() == page_size && offset + page_size < view.state.queue.size()) {
    response->set_next_page_token(fmt::format("{}", offset + page_size));
  }
}

void FillChanges(const engine::Reply& reply, v1::ChangeRunsResponse* response) {
  *response = ToMessage(std::get<engine::RunsChanged>(reply));
}

}  // namespace

grpc::ServerUnaryReactor* RunService::GetRun(grpc::CallbackServerContext* context, const v1::GetRunRequest* request,
                                             v1::Run* response) {
  const auto id = ParseRunId("id", request->id());
  if (!id.ok()) return FinishNow(context, id.status());
  return FinishFromState(context, engine_, [id = *id, response](const View& view) {
    NORMLAB_RETURN_IF_ERROR(CheckExists(view, id));
    const engine::Run& run = view.state.runs.at(id);
    *response = store::ToProto(run);
    if (run.state == engine::RunState::kQueued) response->set_reason(view.explain_wait(run));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RunService::ListRuns(grpc::CallbackServerContext* context, const v1::ListRunsRequest* request,
                                               v1::ListRunsResponse* response) {
  const auto page_size = PageSize(request->page_size(), kPageSizeDefault, kPageSizeMax);
  if (!page_size.ok()) return FinishNow(context, page_size.status());
  auto selector = ToSelector(request->selector());
  if (!selector.ok()) return FinishNow(context, selector.status());
  std::optional<RunId> after;
  if (!request->page_token().empty()) {
    const auto token = ParseRunId("page_token", request->page_token());
    if (!token.ok()) return FinishNow(context, token.status());
    after = *token;
  }
  return FinishFromState(context, engine_,
                         [selector = *std::move(selector), after, page_size = *page_size, response](const View& view) {
                           return FillPage(view, selector, after, page_size, response);
                         });
}

grpc::ServerWriteReactor<v1::WatchRunsResponse>* RunService::WatchRuns(grpc::CallbackServerContext* /*context*/,
                                                                       const v1::WatchRunsRequest* request) {
  auto selector = ToSelector(request->selector());
  if (!selector.ok()) return new RefusedStream<v1::WatchRunsResponse>(selector.status());
  WatchHub::Request watch{.selector = *std::move(selector), .until_terminal = request->until_terminal()};
  if (request->has_since_revision()) watch.since_revision = request->since_revision();
  if (watch.since_revision && !watch.selector.states.empty()) {
    return new RefusedStream<v1::WatchRunsResponse>(absl::InvalidArgumentError(
        "since_revision: not with selector.states, which choose other runs at each call: name the runs"));
  }
  return watches_.Watch(std::move(watch));
}

grpc::ServerUnaryReactor* RunService::CancelRuns(grpc::CallbackServerContext* context,
                                                 const v1::CancelRunsRequest* request,
                                                 v1::ChangeRunsResponse* response) {
  return FinishFromReply(context, engine_, ToCommand(*request),
                         [response](const engine::Reply& reply, const View&) { FillChanges(reply, response); });
}

grpc::ServerUnaryReactor* RunService::RequeueRuns(grpc::CallbackServerContext* context,
                                                  const v1::RequeueRunsRequest* request,
                                                  v1::ChangeRunsResponse* response) {
  return FinishFromReply(context, engine_, ToCommand(*request),
                         [response](const engine::Reply& reply, const View&) { FillChanges(reply, response); });
}

grpc::ServerUnaryReactor* RunService::UpdateRuns(grpc::CallbackServerContext* context,
                                                 const v1::UpdateRunsRequest* request,
                                                 v1::ChangeRunsResponse* response) {
  return FinishFromReply(context, engine_, ToCommand(*request),
                         [response](const engine::Reply& reply, const View&) { FillChanges(reply, response); });
}

grpc::ServerUnaryReactor* RunService::ListQueue(grpc::CallbackServerContext* context,
                                                const v1::ListQueueRequest* request, v1::ListQueueResponse* response) {
  const auto page_size = PageSize(request->page_size(), kPageSizeDefault, kPageSizeMax);
  if (!page_size.ok()) return FinishNow(context, page_size.status());
  uint64_t offset = 0;
  if (!request->page_token().empty() && !absl::SimpleAtoi(request->page_token(), &offset)) {
    return FinishNow(context, absl::InvalidArgumentError(fmt::format("page_token: '{}' is none that this service gave",
                                                                     Cut(request->page_token(), 64))));
  }
  return FinishFromState(context, engine_, [offset, page_size = *page_size, response](const View& view) {
    FillQueue(view, offset, static_cast<size_t>(page_size), response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RunService::ListEvents(grpc::CallbackServerContext* context,
                                                 const v1::ListEventsRequest* request,
                                                 v1::ListEventsResponse* response) {
  const auto id = ParseRunId("run_id", request->run_id());
  if (!id.ok()) return FinishNow(context, id.status());
  auto events = store_.Events(*id);
  if (!events.ok()) return FinishNow(context, events.status());
  // A run that was requeued again and again can have more than one answer takes: the newest matter.
  auto first = events->end();
  for (size_t bytes = 0; first != events->begin(); --first) {
    bytes += std::prev(first)->ByteSizeLong();
    if (bytes > kPageBytesMax) break;
  }
  response->mutable_events()->Assign(first, events->end());
  return FinishFromState(context, engine_, [id = *id](const View& view) { return CheckExists(view, id); });
}

grpc::ServerWriteReactor<v1::LogEntry>* RunService::StreamLogs(grpc::CallbackServerContext* /*context*/,
                                                               const v1::StreamLogsRequest* request) {
  const auto id = ParseRunId("run_id", request->run_id());
  if (!id.ok()) return new RefusedStream<v1::LogEntry>(id.status());
  if (request->tail() < 0) {
    return new RefusedStream<v1::LogEntry>(
        absl::InvalidArgumentError(fmt::format("tail: is {}, must be at least 0", request->tail())));
  }
  return logs_.Stream({.run = *id, .follow = request->follow(), .tail = request->tail()});
}

grpc::ServerUnaryReactor* RunService::GetHistorySummary(grpc::CallbackServerContext* context,
                                                        const v1::GetHistorySummaryRequest* request,
                                                        v1::HistorySummary* response) {
  const auto id = ParseRunId("run_id", request->run_id());
  if (!id.ok()) return FinishNow(context, id.status());
  auto summary = store_.Summarize(*id);
  if (!summary.ok()) return FinishNow(context, summary.status());
  *response = *std::move(summary);
  return FinishFromState(context, engine_, [id = *id](const View& view) { return CheckExists(view, id); });
}

grpc::ServerUnaryReactor* RunService::GetMetrics(grpc::CallbackServerContext* context,
                                                 const v1::GetMetricsRequest* request,
                                                 v1::GetMetricsResponse* response) {
  const auto id = ParseRunId("run_id", request->run_id());
  if (!id.ok()) return FinishNow(context, id.status());
  const auto page_size = PageSize(request->page_size(), kHistoryPageSizeDefault, kHistoryPageSizeMax);
  if (!page_size.ok()) return FinishNow(context, page_size.status());
  const absl::Status filled = FillHistory(store_, *id, request->after_step(), *page_size, response);
  if (!filled.ok()) return FinishNow(context, filled);
  return FinishFromState(context, engine_, [id = *id](const View& view) { return CheckExists(view, id); });
}

grpc::ServerUnaryReactor* RunService::RecordAnalysis(grpc::CallbackServerContext* context,
                                                     const v1::RecordAnalysisRequest* request,
                                                     v1::RecordAnalysisResponse* response) {
  return FinishFromReply(context, engine_, ToCommand(*request), [response](const engine::Reply& reply, const View&) {
    response->set_replaced(std::get<engine::AnalysisRecorded>(reply).replaced);
  });
}

}  // namespace normlab::service
