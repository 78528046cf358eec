#include "coordinator/store/memory_store.h"

#include <utility>

#include "common/status.h"
#include "coordinator/store/record_store.h"

namespace normlab::store {
namespace {

class MemoryBackend final : public Backend {
 public:
  explicit MemoryBackend(std::shared_ptr<MemoryDisk> disk) : disk_(std::move(disk)) {}

  absl::Status Write(const std::vector<Mutation>& mutations, Durability) override {
    const std::scoped_lock lock(disk_->mutex);
    for (const Mutation& mutation : mutations) {
      auto& table = disk_->tables[static_cast<size_t>(mutation.table)];
      switch (mutation.kind) {
        case Mutation::Kind::kPut:
          table[mutation.key] = mutation.value;
          break;
        case Mutation::Kind::kDelete:
          table.erase(mutation.key);
          break;
        case Mutation::Kind::kDeleteRange:
          table.erase(table.lower_bound(mutation.key), table.lower_bound(mutation.value));
          break;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Scan(Table table, const std::string& from, const std::string& to,
                    absl::FunctionRef<bool(std::string_view, std::string_view)> visit) override {
    const std::scoped_lock lock(disk_->mutex);
    const auto& rows = disk_->tables[static_cast<size_t>(table)];
    for (auto row = rows.lower_bound(from); row != rows.end() && (to.empty() || row->first < to); ++row) {
      if (!visit(row->first, row->second)) break;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<std::string>> LastKey(Table table, const std::string& from,
                                                     const std::string& to) override {
    const std::scoped_lock lock(disk_->mutex);
    const auto& rows = disk_->tables[static_cast<size_t>(table)];
    auto row = rows.lower_bound(to);
    if (row == rows.begin() || (--row)->first < from) return std::optional<std::string>();
    return std::optional<std::string>(row->first);
  }

  absl::StatusOr<uint64_t> ApproximateBytes(Table table, const std::string& from, const std::string& to) override {
    uint64_t bytes = 0;
    NORMLAB_RETURN_IF_ERROR(Scan(table, from, to, [&](std::string_view key, std::string_view value) {
      bytes += key.size() + value.size();
      return true;
    }));
    return bytes;
  }

  absl::Status Compact(Table, const std::string&, const std::string&) override { return absl::OkStatus(); }

  absl::Status VerifyChecksums() override { return absl::OkStatus(); }

  absl::Status WriteCheckpoint(const std::string&) override {
    return absl::FailedPreconditionError("a store in memory has no files that could be backed up");
  }

  std::string Describe() const override { return "memory"; }

 private:
  std::shared_ptr<MemoryDisk> disk_;
};

}  // namespace

std::unique_ptr<Backend> MakeMemoryBackend(std::shared_ptr<MemoryDisk> disk) {
  return std::make_unique<MemoryBackend>(std::move(disk));
}

absl::StatusOr<std::unique_ptr<Store>> OpenMemoryStore(std::shared_ptr<MemoryDisk> disk) {
  return OpenRecordStore(MakeMemoryBackend(std::move(disk)));
}

}  // namespace normlab::store
