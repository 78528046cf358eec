#include "coordinator/store/record_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "common/status.h"
#include "coordinator/engine/run_state.h"
#include "coordinator/store/convert.h"
#include "coordinator/store/run_loader.h"
#include "coordinator/store/scan.h"
#include "normlab/v1/storage.pb.h"

namespace normlab::store {
namespace {

Mutation Put(Table table, std::string key, const google::protobuf::MessageLite& value) {
  return {.kind = Mutation::Kind::kPut, .table = table, .key = std::move(key), .value = value.SerializeAsString()};
}

Mutation DeleteRange(Table table, std::string from, std::string to) {
  return {.kind = Mutation::Kind::kDeleteRange, .table = table, .key = std::move(from), .value = std::move(to)};
}

Table TableOf(Store::Part part) {
  constexpr Table kTables[] = {Table::kLogs, Table::kHistory, Table::kEvents};
  return kTables[static_cast<size_t>(part)];
}

/// When the part was removed; nullopt if it was not.
std::optional<absl::Time> ExpiredAt(const v1::StoredExpiry& expiry, Store::Part part) {
  switch (part) {
    case Store::Part::kLogs:
      return expiry.has_logs_at() ? std::optional(FromTimestamp(expiry.logs_at())) : std::nullopt;
    case Store::Part::kHistory:
      return expiry.has_history_at() ? std::optional(FromTimestamp(expiry.history_at())) : std::nullopt;
    case Store::Part::kEvents:
      return expiry.has_events_at() ? std::optional(FromTimestamp(expiry.events_at())) : std::nullopt;
  }
  return std::nullopt;
}

class RecordStore final : public Store {
 public:
  explicit RecordStore(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  /// Refuses what a newer version has written.
  absl::Status CheckSchema();

  absl::StatusOr<engine::State> Load() override;
  absl::Status Commit(const engine::State& state, const engine::Changes& changes) override;
  absl::StatusOr<std::vector<v1::Event>> Events(RunId run) override;
  absl::StatusOr<std::vector<v1::StepHistory>> History(RunId run, int64_t after_step, int limit) override;
  absl::StatusOr<LogPage> Logs(RunId run, uint64_t position, int limit) override;
  absl::StatusOr<uint64_t> LogTailPosition(RunId run, int count) override;
  std::optional<Statistics> Measure() override { return backend_->Measure(); }
  absl::StatusOr<v1::HistorySummary> Summarize(RunId run) override;
  absl::StatusOr<std::vector<EndedRun>> FindExpired(Part part, const Limits& limits) override;
  absl::Status Expire(Part part, const std::vector<RunId>& runs, absl::Time now) override;
  absl::Status Compact(Part part, const std::vector<RunId>& runs) override;
  absl::Status WriteCheckpoint(const std::string& folder) override { return backend_->WriteCheckpoint(folder); }

 private:
  // The lines that a run has: [first, next).
  struct LogSpan {
    uint64_t first = 1;
    uint64_t next = 1;
  };
  // What the writer's thread knows of a run's log.
  struct OpenLog {
    LogSpan span;
    v1::StoredLogTail tail;
  };

  void PutStates(const engine::State& state, const engine::Changes& changes, std::vector<Mutation>& batch) const;
  void PutHistory(const engine::State& state, const engine::Changes& changes, std::vector<Mutation>& batch) const;
  absl::Status PutLogs(const engine::Changes& changes, std::vector<Mutation>& batch);
  absl::StatusOr<LogSpan> FindLogSpan(RunId run);
  absl::StatusOr<OpenLog*> FindOpenLog(RunId run);
  /// The value under `key`; an empty message if there is none.
  template <typename Message>
  absl::StatusOr<Message> Get(Table table, const std::string& key);
  absl::Status SummarizeSteps(RunId run, v1::HistorySummary& summary);

  std::unique_ptr<Backend> backend_;
  std::map<RunId, OpenLog> open_logs_;  // Of live runs that logged since the start.
};

absl::Status RecordStore::CheckSchema() {
  int version = 0;
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredMeta>(*backend_, Table::kMeta, kMetaKey, "",
                                                       [&](std::string_view, const v1::StoredMeta& meta) {
                                                         version = meta.schema_version();
                                                         return false;
                                                       }));
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{} was written by a newer normlab (schema version {}, this program reads up to {}): use that "
                    "version or another folder",
                    backend_->Describe(), version, kSchemaVersion));
  }
  return absl::OkStatus();
}

absl::StatusOr<engine::State> RecordStore::Load() {
  engine::State state;
  const auto take_meta = [&](std::string_view, const v1::StoredMeta& meta) {
    state.last_experiment_number = meta.last_experiment_number();
    state.revision = meta.revision();
    state.attempt_floor = std::max(1, meta.attempt_floor());
    return true;
  };
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredMeta>(*backend_, Table::kMeta, kMetaKey, kUsagePrefix, take_meta));
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredUsage>(
      *backend_, Table::kMeta, kUsagePrefix, kUsageEnd, [&](std::string_view key, const v1::StoredUsage& stored) {
        state.owners[std::string(key.substr(kUsagePrefix.size()))] = FromStored(stored);
        return true;
      }));
  absl::Status converted;
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredExperiment>(
      *backend_, Table::kExperiments, "", "", [&](std::string_view key, const v1::StoredExperiment& stored) {
        auto experiment = FromStored(stored);
        if (!experiment.ok()) {
          converted = Unreadable(*backend_, Table::kExperiments, key, std::string(experiment.status().message()));
          return false;
        }
        state.experiments.emplace(experiment->id, *std::move(experiment));
        return true;
      }));
  NORMLAB_RETURN_IF_ERROR(converted);
  NORMLAB_RETURN_IF_ERROR(LoadRuns(*backend_, state));
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredWorker>(
      *backend_, Table::kWorkers, "", "", [&](std::string_view, const v1::StoredWorker& stored) {
        const WorkerId id{stored.id()};
        state.workers[id] = {.id = id, .is_cordoned = stored.cordoned()};
        return true;
      }));
  return state;
}

void RecordStore::PutStates(const engine::State& state, const engine::Changes& changes,
                            std::vector<Mutation>& batch) const {
  v1::StoredMeta meta;
  meta.set_schema_version(kSchemaVersion);
  meta.set_last_experiment_number(state.last_experiment_number);
  meta.set_revision(state.revision);
  meta.set_attempt_floor(state.attempt_floor);
  batch.push_back(Put(Table::kMeta, kMetaKey, meta));
  for (const ExperimentId id : changes.experiments) {
    batch.push_back(Put(Table::kExperiments, ExperimentKey(id), ToStored(state.experiments.at(id))));
  }
  for (const RunId id : changes.runs) {
    const engine::Run& run = state.runs.at(id);
    // An experiment changes only when it is created, and its runs with it.
    if (changes.experiments.contains(id.experiment)) {
      batch.push_back(Put(Table::kRuns, FixedRunKey(id), FixedPart(run)));
    }
    batch.push_back(Put(Table::kRuns, MovingRunKey(id), MovingPart(run)));
  }
  for (const WorkerId& id : changes.workers) {
    const auto worker = state.workers.find(id);
    if (worker == state.workers.end() || !worker->second.is_cordoned) {
      batch.push_back({.kind = Mutation::Kind::kDelete, .table = Table::kWorkers, .key = id.name});
      continue;
    }
    v1::StoredWorker stored;
    stored.set_id(id.name);
    stored.set_cordoned(true);
    batch.push_back(Put(Table::kWorkers, id.name, stored));
  }
  for (const std::string& name : changes.owners) {
    batch.push_back(Put(Table::kMeta, kUsagePrefix + name, ToStored(state.owners.at(name))));
  }
  uint32_t place = 0;
  for (const engine::EventRecord& event : changes.events) {
    batch.push_back(Put(Table::kEvents, EventKey(event.run, state.revision, place++), ToProto(event)));
  }
}

void RecordStore::PutHistory(const engine::State& state, const engine::Changes& changes,
                             std::vector<Mutation>& batch) const {
  std::map<RunId, int64_t> last_valid;
  for (const auto& truncation : changes.truncations) {
    batch.push_back(
        DeleteRange(Table::kHistory, HistoryKey(truncation.run, truncation.after_step + 1, 0), RunEnd(truncation.run)));
    last_valid[truncation.run] = truncation.after_step;
  }
  for (const engine::HistoryRecord& record : changes.history) {
    // A tick can hold the last reports of one attempt and the truncation by the next: the former are void too.
    const auto truncated = last_valid.find(record.run);
    if (truncated != last_valid.end() && record.step > truncated->second &&
        record.attempt < state.runs.at(record.run).attempt) {
      continue;
    }
    batch.push_back(
        Put(Table::kHistory, HistoryKey(record.run, record.step, static_cast<int>(record.kind)), ToProto(record)));
  }
}

absl::StatusOr<RecordStore::LogSpan> RecordStore::FindLogSpan(RunId run) {
  LogSpan span;
  NORMLAB_RETURN_IF_ERROR(
      backend_->Scan(Table::kLogs, RunPrefix(run), RunEnd(run), [&](std::string_view key, std::string_view) {
        span.first = LogPosition(key);
        return false;
      }));
  NORMLAB_ASSIGN_OR_RETURN(const auto last, backend_->LastKey(Table::kLogs, RunPrefix(run), RunEnd(run)));
  if (last) span.next = LogPosition(*last) + 1;
  return span;
}

absl::StatusOr<RecordStore::OpenLog*> RecordStore::FindOpenLog(RunId run) {
  const auto known = open_logs_.find(run);
  if (known != open_logs_.end()) return &known->second;
  OpenLog log;
  NORMLAB_ASSIGN_OR_RETURN(log.span, FindLogSpan(run));
  NORMLAB_ASSIGN_OR_RETURN(log.tail, Get<v1::StoredLogTail>(Table::kMeta, LogTailKey(run)));
  return &open_logs_.emplace(run, std::move(log)).first->second;
}

absl::Status RecordStore::PutLogs(const engine::Changes& changes, std::vector<Mutation>& batch) {
  std::map<RunId, const OpenLog*> grown;
  for (const engine::LogRecord& record : changes.logs) {
    NORMLAB_ASSIGN_OR_RETURN(OpenLog * log, FindOpenLog(record.run));
    v1::StoredLogTail::Rank& last = (*log->tail.mutable_ranks())[record.rank];
    if (last.incarnation() == record.incarnation && record.sequence <= last.sequence()) continue;
    last.set_incarnation(record.incarnation);
    last.set_sequence(record.sequence);
    grown[record.run] = log;
    auto& [first, next] = log->span;
    batch.push_back(Put(Table::kLogs, LogKey(record.run, next++), ToProto(record)));
    // In lumps, because each range that is deleted is a record that later reads have to step over.
    if (next - first >= kLogLinesMax + kLogLinesMax / 10) {
      const uint64_t kept_from = next - kLogLinesMax;
      batch.push_back(DeleteRange(Table::kLogs, LogKey(record.run, first), LogKey(record.run, kept_from)));
      first = kept_from;
    }
  }
  for (const auto& [run, log] : grown) batch.push_back(Put(Table::kMeta, LogTailKey(run), log->tail));
  return absl::OkStatus();
}

absl::Status RecordStore::Commit(const engine::State& state, const engine::Changes& changes) {
  std::vector<Mutation> batch;
  PutStates(state, changes, batch);
  PutHistory(state, changes, batch);
  NORMLAB_RETURN_IF_ERROR(PutLogs(changes, batch));
  for (const RunId id : changes.runs) {
    const engine::Run& run = state.runs.at(id);
    if (!engine::IsTerminal(run.state) || run.attempt == 0) continue;
    open_logs_.erase(id);
    batch.push_back({.kind = Mutation::Kind::kDelete, .table = Table::kMeta, .key = LogTailKey(id)});
  }
  return backend_->Write(batch);
}

absl::StatusOr<std::vector<v1::Event>> RecordStore::Events(RunId run) {
  std::vector<v1::Event> events;
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::Event>(*backend_, Table::kEvents, RunPrefix(run), RunEnd(run),
                                                  [&](std::string_view, const v1::Event& event) {
                                                    events.push_back(event);
                                                    return true;
                                                  }));
  return events;
}

absl::StatusOr<std::vector<v1::StepHistory>> RecordStore::History(RunId run, int64_t after_step, int limit) {
  std::vector<v1::StepHistory> steps;
  const std::string from = HistoryKey(run, std::max<int64_t>(after_step, -1) + 1, 0);
  const auto visit = [&](std::string_view, const v1::StepHistory& record) {
    if (steps.empty() || steps.back().step() != record.step()) {
      if (static_cast<int>(steps.size()) >= limit) return false;
      steps.emplace_back();
    }
    steps.back().MergeFrom(record);
    return true;
  };
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StepHistory>(*backend_, Table::kHistory, from, RunEnd(run), visit));
  return steps;
}

absl::StatusOr<Store::LogPage> RecordStore::Logs(RunId run, uint64_t position, int limit) {
  LogPage page{.next_position = std::max<uint64_t>(position, 1)};
  const auto visit = [&](std::string_view key, const v1::LogEntry& entry) {
    if (static_cast<int>(page.entries.size()) >= limit) return false;
    page.entries.push_back(entry);
    page.next_position = LogPosition(key) + 1;
    return true;
  };
  NORMLAB_RETURN_IF_ERROR(
      ScanMessages<v1::LogEntry>(*backend_, Table::kLogs, LogKey(run, position), RunEnd(run), visit));
  return page;
}

absl::StatusOr<uint64_t> RecordStore::LogTailPosition(RunId run, int count) {
  NORMLAB_ASSIGN_OR_RETURN(const auto last, backend_->LastKey(Table::kLogs, RunPrefix(run), RunEnd(run)));
  if (!last) return 0;
  const uint64_t next = LogPosition(*last) + 1;
  const uint64_t wanted = static_cast<uint64_t>(std::max(count, 0));
  return next > wanted ? next - wanted : 0;
}

template <typename Message>
absl::StatusOr<Message> RecordStore::Get(Table table, const std::string& key) {
  Message found;
  NORMLAB_RETURN_IF_ERROR(
      ScanMessages<Message>(*backend_, table, key, key + '\0', [&](std::string_view, const Message& message) {
        found = message;
        return false;
      }));
  return found;
}

absl::Status RecordStore::SummarizeSteps(RunId run, v1::HistorySummary& summary) {
  constexpr int kGapsListed = 100;
  NORMLAB_ASSIGN_OR_RETURN(const auto fixed, Get<v1::StoredRun>(Table::kRuns, FixedRunKey(run)));
  const int64_t interval = std::max<int64_t>(1, fixed.run().spec().report().step_every_steps());
  int64_t before = 0;
  return backend_->Scan(Table::kHistory, RunPrefix(run), RunEnd(run), [&](std::string_view key, std::string_view) {
    if (HistoryKindOf(key) != static_cast<int>(engine::HistoryKind::kStep)) return true;
    const int64_t step = HistoryStep(key);
    const bool is_after_expiry = before == 0 && summary.has_history_expired_at();
    const int64_t num_missing = is_after_expiry ? 0 : (step - before - 1) / interval;
    if (num_missing > 0) {
      summary.set_num_missing(summary.num_missing() + num_missing);
      summary.set_num_gaps(summary.num_gaps() + 1);
    }
    if (num_missing > 0 && summary.gaps_size() < kGapsListed) {
      v1::HistorySummary::Gap& gap = *summary.add_gaps();
      gap.set_after_step(before);
      gap.set_before_step(step);
      gap.set_num_missing(num_missing);
    }
    if (summary.num_steps() == 0) summary.set_first_step(step);
    summary.set_num_steps(summary.num_steps() + 1);
    summary.set_last_step(step);
    before = step;
    return true;
  });
}

absl::StatusOr<std::vector<Store::EndedRun>> RecordStore::FindExpired(Part part, const Limits& limits) {
  std::vector<EndedRun> ended;
  if (!limits.ended_before && limits.bytes_max == 0) return ended;
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredRun>(
      *backend_, Table::kRuns, "", "", [&](std::string_view key, const v1::StoredRun& stored) {
        // The moving part alone has an end.
        if (key.back() == '\1' && stored.run().has_ended_at()) {
          ended.push_back({FromTimestamp(stored.run().ended_at()), RunOfKey(key)});
        }
        return true;
      }));
  std::map<RunId, absl::Time> removed;
  NORMLAB_RETURN_IF_ERROR(ScanMessages<v1::StoredExpiry>(*backend_, Table::kMeta, kExpiryPrefix, kExpiryEnd,
                                                         [&](std::string_view key, const v1::StoredExpiry& expiry) {
                                                           if (const auto at = ExpiredAt(expiry, part))
                                                             removed[RunOfKey(key.substr(kExpiryPrefix.size()))] = *at;
                                                           return true;
                                                         }));
  // A run that was requeued since, and has ended again, has new things to lose.
  std::erase_if(ended, [&](const EndedRun& run) {
    const auto at = removed.find(run.run);
    return at != removed.end() && run.ended_at <= at->second;
  });
  std::sort(ended.begin(), ended.end());
  auto end = std::partition_point(ended.begin(), ended.end(), [&](const EndedRun& run) {
    return limits.ended_before && run.ended_at < *limits.ended_before;
  });
  if (limits.bytes_max > 0) {
    const Table table = TableOf(part);
    NORMLAB_ASSIGN_OR_RETURN(uint64_t bytes, backend_->ApproximateBytes(table, "", std::string(16, '\xff')));
    // What is past its age goes first; it may be enough.
    for (auto run = ended.begin(); run != ended.end() && (run < end || bytes > limits.bytes_max); ++run) {
      NORMLAB_ASSIGN_OR_RETURN(const uint64_t of_run,
                               backend_->ApproximateBytes(table, RunPrefix(run->run), RunEnd(run->run)));
      bytes -= std::min(bytes, of_run);
      end = std::max(end, run + 1);
    }
  }
  ended.erase(end, ended.end());
  return ended;
}

absl::Status RecordStore::Expire(Part part, const std::vector<RunId>& runs, absl::Time now) {
  std::vector<Mutation> batch;
  for (const RunId id : runs) {
    NORMLAB_ASSIGN_OR_RETURN(auto expiry, Get<v1::StoredExpiry>(Table::kMeta, ExpiryKey(id)));
    if (part == Part::kLogs) *expiry.mutable_logs_at() = ToTimestamp(now);
    if (part == Part::kHistory) *expiry.mutable_history_at() = ToTimestamp(now);
    if (part == Part::kEvents) *expiry.mutable_events_at() = ToTimestamp(now);
    batch.push_back(Put(Table::kMeta, ExpiryKey(id), expiry));
    batch.push_back(DeleteRange(TableOf(part), RunPrefix(id), RunEnd(id)));
    if (part == Part::kLogs) open_logs_.erase(id);
  }
  return backend_->Write(batch, Durability::kLater);
}

absl::Status RecordStore::Compact(Part part, const std::vector<RunId>& runs) {
  if (runs.empty()) return absl::OkStatus();
  const auto [first, last] = std::minmax_element(runs.begin(), runs.end());
  return backend_->Compact(TableOf(part), RunPrefix(*first), RunEnd(*last));
}

absl::StatusOr<v1::HistorySummary> RecordStore::Summarize(RunId run) {
  v1::HistorySummary summary;
  NORMLAB_ASSIGN_OR_RETURN(const auto expiry, Get<v1::StoredExpiry>(Table::kMeta, ExpiryKey(run)));
  if (expiry.has_logs_at()) *summary.mutable_logs_expired_at() = expiry.logs_at();
  if (expiry.has_history_at()) *summary.mutable_history_expired_at() = expiry.history_at();
  if (expiry.has_events_at()) *summary.mutable_events_expired_at() = expiry.events_at();
  NORMLAB_RETURN_IF_ERROR(SummarizeSteps(run, summary));
  NORMLAB_ASSIGN_OR_RETURN(const LogSpan lines, FindLogSpan(run));
  summary.set_num_log_lines(static_cast<int64_t>(lines.next - lines.first));
  if (!summary.has_logs_expired_at()) summary.set_num_log_lines_dropped(static_cast<int64_t>(lines.first - 1));
  NORMLAB_RETURN_IF_ERROR(
      backend_->Scan(Table::kEvents, RunPrefix(run), RunEnd(run), [&](std::string_view, std::string_view) {
        summary.set_num_events(summary.num_events() + 1);
        return true;
      }));
  return summary;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenRecordStore(std::unique_ptr<Backend> backend) {
  auto store = std::make_unique<RecordStore>(std::move(backend));
  NORMLAB_RETURN_IF_ERROR(store->CheckSchema());
  return store;
}

}  // namespace normlab::store
