#pragma once

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/store/keys.h"
#include "coordinator/store/statistics.h"

namespace normlab::store {

/// One change of one table.
struct Mutation {
  enum class Kind { kPut, kDelete, kDeleteRange };
  Kind kind = Kind::kPut;
  Table table = Table::kMeta;
  std::string key;
  std::string value;  // kPut: the value. kDeleteRange: the first key that stays.
};

enum class Durability {
  kSynced,  // On the disk.
  kLater,   // With the next synced write: for what is done again if it is lost.
};

/// Ordered tables of bytes: all that the store needs of a database. One writer; reads from any thread.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Applies all mutations in order, or none.
  virtual absl::Status Write(const std::vector<Mutation>& mutations, Durability durability = Durability::kSynced) = 0;

  /// Calls `visit` for the keys in [from, to), in order, until it returns false. An empty `to` means the table's end.
  virtual absl::Status Scan(Table table, const std::string& from, const std::string& to,
                            absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) = 0;

  /// The last key in [from, to), or nullopt if there is none.
  virtual absl::StatusOr<std::optional<std::string>> LastKey(Table table, const std::string& from,
                                                             const std::string& to) = 0;

  /// See Store::Measure.
  virtual std::optional<Statistics> Measure() { return std::nullopt; }

  /// About how much room the keys in [from, to) take, in memory and on the disk.
  virtual absl::StatusOr<uint64_t> ApproximateBytes(Table table, const std::string& from, const std::string& to) = 0;

  /// Gives back the room of what was deleted in [from, to). Slow; from any thread.
  virtual absl::Status Compact(Table table, const std::string& from, const std::string& to) = 0;

  /// Writes everything that was written before the call into the new folder `folder`, as a database that can be opened.
  /// Writers are not held up. From any thread. FAILED_PRECONDITION for a backend that has no files.
  virtual absl::Status WriteCheckpoint(const std::string& folder) = 0;

  /// Reads every file that was written and compares its checksums: DATA_LOSS names the one that is damaged.
  virtual absl::Status VerifyChecksums() = 0;

  /// Where the data is, for messages.
  virtual std::string Describe() const = 0;
};

}  // namespace normlab::store
