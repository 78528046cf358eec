#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/ids.h"

// Where each record lies. Numbers are big-endian and unsigned, so that bytes order as the numbers do.
//
//   table        key                              value
//   meta         "meta"                           StoredMeta
//   meta         "usage/" user                    StoredUsage
//   meta         "expired/" run                   StoredExpiry
//   meta         "logtail/" run                   StoredLogTail; only runs that have an attempt and have not ended
//   experiments  experiment:u64                   StoredExperiment
//   runs         run 0:u8                         StoredRun, the part that never changes
//   runs         run 1:u8                         StoredRun, the rest; merged into the part before it
//   workers      name                             StoredWorker; only those that are cordoned
//   events       run revision:u64 place:u32       Event; place counts the events of one commit
//   history      run step:u64 kind:u8             StepHistory with the one report of its kind (engine::HistoryKind)
//   logs         run position:u64                 LogEntry; positions of a run are dense
//
//   run = experiment:u64 index:u32
namespace normlab::store {

/// 2: usage beside the meta record, which version 1 would read as another one. 3: the floor of attempts, without which
/// version 2 would give out numbers again. 4: specs as bytes, which version 3 would take for empty ones.
inline constexpr int kSchemaVersion = 4;

enum class Table { kMeta = 0, kExperiments, kRuns, kWorkers, kEvents, kHistory, kLogs };
inline constexpr const char* kTableNames[] = {"meta", "experiments", "runs", "workers", "events", "history", "logs"};
inline constexpr int kNumTables = 7;

inline constexpr char kMetaKey[] = "meta";
inline const std::string kUsagePrefix = "usage/";
inline const std::string kUsageEnd = "usage0";  // Behind every key that begins with the prefix.

inline const std::string kExpiryPrefix = "expired/";
inline const std::string kExpiryEnd = "expired0";

inline const std::string kLogTailPrefix = "logtail/";

/// Appends `value`, big-endian, in `bytes` bytes.
inline void AppendNumber(std::string& key, uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) key.push_back(static_cast<char>(value >> shift));
}

inline uint64_t ReadNumber(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

inline std::string ExperimentKey(ExperimentId id) {
  std::string key;
  AppendNumber(key, static_cast<uint64_t>(id.number), 8);
  return key;
}

/// What every key of a run begins with.
inline std::string RunPrefix(RunId id) {
  std::string key = ExperimentKey(id.experiment);
  AppendNumber(key, static_cast<uint32_t>(id.index), 4);
  return key;
}

/// The run in a key that begins with RunPrefix.
inline RunId RunOfKey(std::string_view key) {
  return {ExperimentId{static_cast<int64_t>(ReadNumber(key.substr(0, 8)))},
          static_cast<int32_t>(ReadNumber(key.substr(8, 4)))};
}

/// Behind every key of a run, and at or before every key of the next one.
inline std::string RunEnd(RunId id) {
  std::string key = ExperimentKey(id.experiment);
  AppendNumber(key, static_cast<uint64_t>(static_cast<uint32_t>(id.index)) + 1, 4);
  return key;
}

inline std::string FixedRunKey(RunId id) { return RunPrefix(id) + '\0'; }
inline std::string MovingRunKey(RunId id) { return RunPrefix(id) + '\1'; }

inline std::string ExpiryKey(RunId id) { return kExpiryPrefix + RunPrefix(id); }

inline std::string LogTailKey(RunId id) { return kLogTailPrefix + RunPrefix(id); }

inline std::string EventKey(RunId id, int64_t revision, uint32_t place) {
  std::string key = RunPrefix(id);
  AppendNumber(key, static_cast<uint64_t>(revision), 8);
  AppendNumber(key, place, 4);
  return key;
}

/// Kind 0 gives the first possible key of the step.
inline std::string HistoryKey(RunId id, int64_t step, int kind) {
  std::string key = RunPrefix(id);
  AppendNumber(key, static_cast<uint64_t>(step), 8);
  AppendNumber(key, static_cast<uint64_t>(kind), 1);
  return key;
}

/// The step in a key made by HistoryKey.
inline int64_t HistoryStep(std::string_view key) {
  return static_cast<int64_t>(ReadNumber(key.substr(key.size() - 9, 8)));
}
/// The kind in it.
inline int HistoryKindOf(std::string_view key) { return static_cast<unsigned char>(key.back()); }

inline std::string LogKey(RunId id, uint64_t position) {
  std::string key = RunPrefix(id);
  AppendNumber(key, position, 8);
  return key;
}

/// The position in a key made by LogKey.
inline uint64_t LogPosition(std::string_view key) { return ReadNumber(key.substr(key.size() - 8)); }

}  // namespace normlab::store
