#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "coordinator/store/memory_store.h"
#include "coordinator/store/record_store.h"
#include "coordinator/store/rocksdb_store.h"
#include "coordinator/store/testing/sample_state.h"
#include "normlab/v1/storage.pb.h"

// What every store promises, run on each of them.
namespace normlab::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// Something that keeps data while stores on it come and go.
struct Disk {
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> open;
};

Disk MakeMemoryDisk() {
  auto disk = std::make_shared<MemoryDisk>();
  return {[disk] { return MakeMemoryBackend(disk); }};
}

Disk MakeRocksDbDisk() {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = test->name();
  std::replace(name.begin(), name.end(), '/', '-');
  const std::string folder = ::testing::TempDir() + "normlab-store-" + name;
  std::filesystem::remove_all(folder);
  return {[folder] { return OpenRocksDbBackend(folder); }};
}

class StoreConformanceTest : public ::testing::TestWithParam<Disk (*)()> {
 protected:
  void SetUp() override {
    disk_ = GetParam()();
    Reopen();
  }

  void Reopen() {
    store_.reset();
    auto backend = disk_.open();
    ASSERT_TRUE(backend.ok()) << backend.status();
    auto store = OpenRecordStore(*std::move(backend));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  /// Commits the sample state once; later commits go on from `state_`.
  void CommitSample() { ASSERT_TRUE(store_->Commit(state_, MakeSampleChanges()).ok()); }

  void Commit(const engine::Changes& changes) {
    ++state_.revision;
    const absl::Status status = store_->Commit(state_, changes);
    ASSERT_TRUE(status.ok()) << status;
  }

  static engine::HistoryRecord Step(int64_t step, int attempt, double loss) {
    v1::StepReport report;
    report.set_step(step);
    report.set_loss(loss);
    return {.run = kSampleRun,
            .step = step,
            .kind = engine::HistoryKind::kStep,
            .attempt = attempt,
            .time = kSampleTime,
            .payload = report.SerializeAsString()};
  }

  engine::LogRecord Line(const std::string& text) {
    v1::LogLine line;
    line.set_text(text);
    return {.run = kSampleRun,
            .time = kSampleTime,
            .attempt = 1,
            .rank = 0,
            .payload = line.SerializeAsString(),
            .incarnation = "i-1",
            .sequence = ++num_lines_};
  }

  int64_t CountLines(RunId run) { return store_->Summarize(run)->num_log_lines(); }

  std::vector<int64_t> Steps() {
    std::vector<int64_t> steps;
    const auto history = store_->History(kSampleRun, 0, 1000);
    for (const v1::StepHistory& entry : *history) steps.push_back(entry.step());
    return steps;
  }

  Disk disk_;
  std::unique_ptr<Store> store_;
  engine::State state_ = MakeSampleState();
  int64_t num_lines_ = 0;
};

TEST_P(StoreConformanceTest, LoadsNothingFromAnEmptyDisk) {
  const auto state = store_->Load();
  ASSERT_TRUE(state.ok());
  EXPECT_THAT(state->runs, IsEmpty());
  EXPECT_EQ(state->revision, 0);
}

TEST_P(StoreConformanceTest, LoadsWhatWasCommittedAfterAReopen) {
  CommitSample();
  Reopen();
  const auto state = store_->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->revision, 9);
  EXPECT_EQ(state->last_experiment_number, 7);
  EXPECT_EQ(state->experiments.at(kSampleExperiment).spec_digest, "abc");
  EXPECT_EQ(state->runs.at(kSampleRun).gang, state_.runs.at(kSampleRun).gang);
  EXPECT_EQ(state->runs.at(kOtherRun).state, engine::RunState::kQueued);
}

TEST_P(StoreConformanceTest, KeepsTheFixedPartOfARunWhenItMoves) {
  CommitSample();
  engine::Run& run = state_.runs.at(kSampleRun);
  run.state = engine::RunState::kQueued;
  run.gang.clear();
  run.ranks.clear();
  run.not_before = std::nullopt;
  engine::Changes changes;
  changes.runs = {kSampleRun};
  Commit(changes);
  Reopen();
  const auto state = store_->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  const engine::Run& loaded = state->runs.at(kSampleRun);
  EXPECT_EQ(loaded.info->axes, run.info->axes);
  EXPECT_EQ(loaded.state, engine::RunState::kQueued);
  EXPECT_THAT(loaded.gang, IsEmpty());
  EXPECT_FALSE(loaded.not_before.has_value());
}

TEST_P(StoreConformanceTest, RemembersACordonUntilItIsLifted) {
  engine::Changes changes;
  changes.workers = {{"w-0"}};
  state_.workers[{"w-0"}] = {.id = {"w-0"}, .is_cordoned = true};
  Commit(changes);
  Reopen();
  EXPECT_TRUE(store_->Load()->workers.at({"w-0"}).is_cordoned);
  EXPECT_FALSE(store_->Load()->workers.at({"w-0"}).has_lease);
  state_.workers[{"w-0"}].is_cordoned = false;
  Commit(changes);
  Reopen();
  EXPECT_THAT(store_->Load()->workers, IsEmpty());
}

TEST_P(StoreConformanceTest, ListsEventsOfOneRunInOrderAcrossReopens) {
  CommitSample();
  const auto commit_event = [&](RunId run, const std::string& reason) {
    engine::Changes changes;
    changes.events = {
        {.run = run, .time = kSampleTime, .actor = "user:ada", .state = engine::RunState::kQueued, .reason = reason},
        {.run = run,
         .time = kSampleTime,
         .actor = "user:ada",
         .state = engine::RunState::kQueued,
         .reason = reason + "!"}};
    Commit(changes);
  };
  commit_event(kSampleRun, "a");
  commit_event(kOtherRun, "of another run");
  Reopen();
  commit_event(kSampleRun, "b");
  std::vector<std::string> reasons;
  const auto events = store_->Events(kSampleRun);
  for (const v1::Event& event : *events) reasons.push_back(event.reason());
  EXPECT_THAT(reasons, ElementsAre("a", "a!", "b", "b!"));
}

TEST_P(StoreConformanceTest, ReplacesAStepThatIsDoneAgain) {
  CommitSample();
  engine::Changes changes;
  changes.history = {Step(300, 1, 3.0), Step(2, 1, 4.0)};
  Commit(changes);
  changes.history = {Step(300, 2, 2.0)};
  Commit(changes);
  const auto history = store_->History(kSampleRun, 0, 10);
  ASSERT_TRUE(history.ok());
  ASSERT_THAT(*history, SizeIs(2));
  EXPECT_EQ((*history)[0].step(), 2);
  EXPECT_EQ((*history)[1].step(), 300);
  EXPECT_EQ((*history)[1].attempt(), 2);
  EXPECT_EQ((*history)[1].report().loss(), 2.0);
}

TEST_P(StoreConformanceTest, JoinsTheKindsOfOneStepAndPagesBySteps) {
  CommitSample();
  engine::Changes changes;
  v1::EvalReport eval;
  eval.set_loss(1.5);
  for (int64_t step = 1; step <= 3; ++step) {
    changes.history.push_back(Step(step, 1, 3.0));
    changes.history.push_back({.run = kSampleRun,
                               .step = step,
                               .kind = engine::HistoryKind::kEval,
                               .attempt = 1,
                               .time = kSampleTime,
                               .payload = eval.SerializeAsString()});
  }
  Commit(changes);
  const auto page = store_->History(kSampleRun, 1, 1);
  ASSERT_TRUE(page.ok());
  ASSERT_THAT(*page, SizeIs(1));
  EXPECT_EQ((*page)[0].step(), 2);
  EXPECT_EQ((*page)[0].report().loss(), 3.0);
  EXPECT_EQ((*page)[0].eval().loss(), 1.5);
}

TEST_P(StoreConformanceTest, ForgetsTheHistoryBehindATruncation) {
  CommitSample();
  engine::Changes changes;
  changes.history = {Step(1, 4, 3), Step(2, 4, 3), Step(3, 4, 3)};
  Commit(changes);
  // The old attempt's last report and the new attempt's first are in one tick with the truncation.
  changes.history = {Step(4, 4, 3), Step(2, 5, 2)};
  changes.truncations = {{.run = kSampleRun, .after_step = 1}};
  Commit(changes);
  EXPECT_THAT(Steps(), ElementsAre(1, 2));
}

TEST_P(StoreConformanceTest, ReadsLogsOnFromAPosition) {
  CommitSample();
  engine::Changes changes;
  changes.logs = {Line("a"), Line("b"), Line("c")};
  Commit(changes);
  const auto first = store_->Logs(kSampleRun, 0, 2);
  ASSERT_THAT(first->entries, SizeIs(2));
  EXPECT_EQ(first->entries[1].line().text(), "b");
  Reopen();
  changes.logs = {Line("d")};
  Commit(changes);
  const auto second = store_->Logs(kSampleRun, first->next_position, 10);
  ASSERT_THAT(second->entries, SizeIs(2));
  EXPECT_EQ(second->entries[1].line().text(), "d");
  EXPECT_THAT(store_->Logs(kSampleRun, second->next_position, 10)->entries, IsEmpty());
  EXPECT_EQ(store_->Logs(kSampleRun, *store_->LogTailPosition(kSampleRun, 2), 10)->entries[0].line().text(), "c");
  EXPECT_EQ(*store_->LogTailPosition(kSampleRun, 100), 0u);
  EXPECT_EQ(*store_->LogTailPosition(kOtherRun, 100), 0u);
}

TEST_P(StoreConformanceTest, StoresALineOnceThoughItsWorkerRepeatsItAfterARestart) {
  CommitSample();
  engine::Changes changes;
  changes.logs = {Line("a"), Line("b")};
  Commit(changes);
  Reopen();
  changes.logs.push_back(Line("c"));
  Commit(changes);
  EXPECT_EQ(CountLines(kSampleRun), 3);
  // What another rank, or the next incarnation of the worker, says begins anew.
  changes.logs = {Line("d"), Line("e")};
  changes.logs[0].rank = 1;
  changes.logs[1].incarnation = "i-2";
  changes.logs[0].sequence = changes.logs[1].sequence = 1;
  Commit(changes);
  EXPECT_EQ(CountLines(kSampleRun), 5);
}

TEST_P(StoreConformanceTest, ForgetsWhoLoggedLastOnceTheRunHasEnded) {
  CommitSample();
  engine::Changes changes;
  changes.logs = {Line("a")};
  Commit(changes);
  state_.runs.at(kSampleRun).state = engine::RunState::kSucceeded;
  Commit({.runs = {kSampleRun}});
  Reopen();
  Commit(changes);
  EXPECT_EQ(CountLines(kSampleRun), 2) << "nothing of the run is kept but its lines";
}

TEST_P(StoreConformanceTest, DropsTheOldestLogLinesPastTheLimit) {
  CommitSample();
  for (int batch = 0; batch < 12; ++batch) {
    engine::Changes changes;
    for (int i = 0; i < 1000; ++i) changes.logs.push_back(Line(std::to_string(batch * 1000 + i)));
    Commit(changes);
  }
  const auto page = store_->Logs(kSampleRun, 0, 1'000'000);
  EXPECT_GE(page->entries.size(), kLogLinesMax);
  EXPECT_LE(page->entries.size(), kLogLinesMax + kLogLinesMax / 10);
  EXPECT_EQ(page->entries.back().line().text(), "11999");
}

TEST_P(StoreConformanceTest, CountsTheStepsThatWereReportedAndThoseThatWereNot) {
  CommitSample();
  engine::Changes changes;
  changes.history = {Step(1, 5, 3), Step(2, 5, 3), Step(5, 5, 3), Step(6, 5, 3), Step(8, 5, 3)};
  changes.logs = {Line("a"), Line("b")};
  changes.events = {{.run = kSampleRun, .time = kSampleTime, .actor = "user:ada"}};
  Commit(changes);
  const auto summary = store_->Summarize(kSampleRun);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->num_steps(), 5);
  EXPECT_EQ(summary->first_step(), 1);
  EXPECT_EQ(summary->last_step(), 8);
  EXPECT_EQ(summary->num_gaps(), 2);
  EXPECT_EQ(summary->num_missing(), 3);
  EXPECT_EQ(summary->gaps(0).after_step(), 2);
  EXPECT_EQ(summary->gaps(0).before_step(), 5);
  EXPECT_EQ(summary->num_log_lines(), 2);
  EXPECT_EQ(summary->num_events(), 1);
  EXPECT_EQ(store_->Summarize(kOtherRun)->num_steps(), 0);
}

TEST_P(StoreConformanceTest, RemovesWhatIsPastItsAgeOfEndedRunsOnly) {
  engine::Run& run = state_.runs.at(kOtherRun);
  run.state = engine::RunState::kSucceeded;
  run.ended_at = kSampleTime;
  state_.runs.at(kSampleRun).ended_at.reset();
  CommitSample();
  engine::Changes changes;
  changes.logs = {Line("a")};
  changes.logs.push_back(Line("b"));
  changes.logs.back().run = kOtherRun;
  Commit(changes);
  constexpr auto kLogs = Store::Part::kLogs;
  EXPECT_THAT(*store_->FindExpired(kLogs, {}), IsEmpty()) << "no limits";
  EXPECT_THAT(*store_->FindExpired(kLogs, {.ended_before = kSampleTime}), IsEmpty());
  const auto found = *store_->FindExpired(kLogs, {.ended_before = kSampleTime + absl::Seconds(1)});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].run, kOtherRun);
  ASSERT_TRUE(store_->Expire(kLogs, {kOtherRun}, kSampleTime + absl::Hours(1)).ok());
  ASSERT_TRUE(store_->Compact(kLogs, {kOtherRun}).ok());
  EXPECT_THAT(*store_->FindExpired(kLogs, {.ended_before = absl::InfiniteFuture()}), IsEmpty()) << "once is enough";
  EXPECT_THAT(store_->Logs(kOtherRun, 0, 10)->entries, IsEmpty());
  EXPECT_THAT(store_->Logs(kSampleRun, 0, 10)->entries, SizeIs(1));
  state_.runs.at(kOtherRun).ended_at = kSampleTime + absl::Hours(2);
  CommitSample();
  EXPECT_THAT(*store_->FindExpired(kLogs, {.ended_before = absl::InfiniteFuture()}), SizeIs(1))
      << "requeued, and ended again";
  Commit({});
  Reopen();
  const auto summary = store_->Summarize(kOtherRun);
  EXPECT_TRUE(summary->has_logs_expired_at());
  EXPECT_FALSE(summary->has_history_expired_at());
  EXPECT_EQ(store_->Load()->runs.size(), 2u);
}

TEST_P(StoreConformanceTest, RemovesTheOldestWhileThereIsTooMuch) {
  for (auto& [id, run] : state_.runs) {
    run.state = engine::RunState::kFailed;
    run.gang.clear();
    run.ranks.clear();
    run.ended_at = kSampleTime + absl::Seconds(id == kSampleRun ? 2 : 1);
  }
  CommitSample();
  engine::Changes changes;
  std::mt19937 random;  // What does not compress.
  for (int i = 0; i < 400; ++i) {
    std::string text(100, ' ');
    for (char& letter : text) letter = static_cast<char>(' ' + random() % 95);
    changes.logs.push_back(Line(text));
    if (i % 2 == 1) changes.logs.back().run = kOtherRun;
  }
  Commit(changes);
  // RocksDB guesses by chance how much of a range is in memory; of files it knows.
  ASSERT_TRUE(store_->Compact(Store::Part::kLogs, {kSampleRun, kOtherRun}).ok());
  EXPECT_THAT(*store_->FindExpired(Store::Part::kLogs, {.bytes_max = 1 << 20}), IsEmpty());
  const auto found = *store_->FindExpired(Store::Part::kLogs, {.bytes_max = 30'000});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].run, kOtherRun) << "it ended first";
}

TEST_P(StoreConformanceTest, KeepsTheFloorOfAttempts) {
  state_.attempt_floor = 1000;
  CommitSample();
  Reopen();
  EXPECT_EQ(store_->Load()->attempt_floor, 1000);
}

TEST_P(StoreConformanceTest, RefusesANewerSchema) {
  store_.reset();
  v1::StoredMeta meta;
  meta.set_schema_version(kSchemaVersion + 1);
  ASSERT_TRUE((*disk_.open())->Write({{.key = kMetaKey, .value = meta.SerializeAsString()}}).ok());
  const auto store = OpenRecordStore(*disk_.open());
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("schema version 5, this program reads up to 4"));
}

TEST_P(StoreConformanceTest, NamesARecordThatCannotBeRead) {
  store_.reset();
  ASSERT_TRUE((*disk_.open())->Write({{.table = Table::kRuns, .key = MovingRunKey(kSampleRun), .value = "\xff"}}).ok());
  Reopen();
  const auto state = store_->Load();
  EXPECT_EQ(state.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(state.status().message()), HasSubstr("00000000000000070000000101 of table runs"));
}

INSTANTIATE_TEST_SUITE_P(Memory, StoreConformanceTest, ::testing::Values(&MakeMemoryDisk));
INSTANTIATE_TEST_SUITE_P(RocksDb, StoreConformanceTest, ::testing::Values(&MakeRocksDbDisk));

}  // namespace
}  // namespace normlab::store
