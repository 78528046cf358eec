#include "tests/simulation/disk.h"

#include <utility>

namespace normlab::simulation {

using store::Mutation;
using store::Table;

/// Reads as memory does; writes as the disk wants.
class DiskBackend final : public store::Backend {
 public:
  DiskBackend(Disk& disk, std::unique_ptr<store::Backend> memory) : disk_(disk), memory_(std::move(memory)) {}

  absl::Status Write(const std::vector<Mutation>& mutations, store::Durability durability) override {
    return disk_.Write(*memory_, mutations, durability);
  }
  absl::Status Scan(Table table, const std::string& from, const std::string& to,
                    absl::FunctionRef<bool(std::string_view, std::string_view)> visit) override {
    if (disk_.hides_log_tails_ && from.starts_with(store::kLogTailPrefix)) return absl::OkStatus();
    return memory_->Scan(table, from, to, visit);
  }
  absl::StatusOr<std::optional<std::string>> LastKey(Table table, const std::string& from,
                                                     const std::string& to) override {
    return memory_->LastKey(table, from, to);
  }
  absl::StatusOr<uint64_t> ApproximateBytes(Table table, const std::string& from, const std::string& to) override {
    return memory_->ApproximateBytes(table, from, to);
  }
  absl::Status Compact(Table table, const std::string& from, const std::string& to) override {
    return memory_->Compact(table, from, to);
  }
  absl::Status WriteCheckpoint(const std::string& folder) override { return memory_->WriteCheckpoint(folder); }
  absl::Status VerifyChecksums() override { return memory_->VerifyChecksums(); }
  std::string Describe() const override { return "the simulated disk"; }

 private:
  Disk& disk_;
  std::unique_ptr<store::Backend> memory_;
};

std::unique_ptr<store::Backend> Disk::MakeBackend() {
  return std::make_unique<DiskBackend>(*this, store::MakeMemoryBackend(memory_));
}

void Disk::Remember(Table table, const std::string& key) {
  const auto& rows = memory_->tables[static_cast<size_t>(table)];
  const auto row = rows.find(key);
  undo_.push_back({table, key, row == rows.end() ? std::nullopt : std::optional(row->second)});
}

absl::Status Disk::Write(store::Backend& memory, const std::vector<Mutation>& mutations, store::Durability durability) {
  if (durability == store::Durability::kSynced) ++num_writes_;
  if (keeps_undo_) undo_.clear();
  {
    const std::scoped_lock lock(memory_->mutex);
    for (const Mutation& mutation : mutations) {
      if (mutation.kind != Mutation::Kind::kDeleteRange) {
        Remember(mutation.table, mutation.key);
        continue;
      }
      const auto& rows = memory_->tables[static_cast<size_t>(mutation.table)];
      for (auto row = rows.lower_bound(mutation.key); row != rows.lower_bound(mutation.value); ++row) {
        Remember(mutation.table, row->first);
      }
    }
  }
  if (absl::Status written = memory.Write(mutations, durability); !written.ok()) return written;
  if (!fails_next_) return absl::OkStatus();
  return absl::DataLossError("fsync of the simulated disk: Input/output error");
}

void Disk::Lose(double part) {
  const size_t num_kept = undo_.size() - static_cast<size_t>(part * static_cast<double>(undo_.size()));
  undo_.erase(undo_.begin(), undo_.begin() + static_cast<ptrdiff_t>(num_kept));
  const std::scoped_lock lock(memory_->mutex);
  // A batch can change one key twice: what stood there first comes back last.
  for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo) {
    auto& rows = memory_->tables[static_cast<size_t>(undo->table)];
    if (undo->value) {
      rows[undo->key] = *std::move(undo->value);
    } else {
      rows.erase(undo->key);
    }
  }
  undo_.clear();
}

}  // namespace normlab::simulation
