#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/store/backend.h"
#include "coordinator/store/memory_store.h"

namespace normlab::simulation {

/// The coordinator's disk: outlives its process. What was written last is under way until Sync or Lose; then it is
/// there for good, or it was never there.
class Disk {
 public:
  /// What a store writes to and reads from.
  std::unique_ptr<store::Backend> MakeBackend();

  void Sync() { undo_.clear(); }
  /// `part` of the changes, from the last one on: less than all only for a disk that breaks its promise.
  void Lose(double part = 1);

  /// A disk that breaks its promise: what was written last can be lost although it was synced.
  void BreakPromise() { keeps_undo_ = true; }

  /// Reads find nothing of who logged last.
  void HideLogTails() { hides_log_tails_ = true; }

  /// The next write fails.
  void FailNextWrite() { fails_next_ = true; }
  void Repair() { fails_next_ = false; }
  /// Batches that had to be synced, ever.
  int64_t num_writes() const { return num_writes_; }

 private:
  friend class DiskBackend;
  struct Undo {
    store::Table table;
    std::string key;
    std::optional<std::string> value;  // Nullopt: there was none.
  };
  absl::Status Write(store::Backend& memory, const std::vector<store::Mutation>& mutations,
                     store::Durability durability);
  void Remember(store::Table table, const std::string& key);

  std::shared_ptr<store::MemoryDisk> memory_ = std::make_shared<store::MemoryDisk>();
  std::vector<Undo> undo_;  // Of what is under way, in order.
  bool keeps_undo_ = false;
  bool fails_next_ = false;
  bool hides_log_tails_ = false;
  int64_t num_writes_ = 0;
};

}  // namespace normlab::simulation
