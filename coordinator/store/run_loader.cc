#include "coordinator/store/run_loader.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/store/convert.h"
#include "coordinator/store/keys.h"
#include "coordinator/store/scan.h"
#include "normlab/v1/storage.pb.h"

namespace normlab::store {
namespace {

/// Below it threads cost more than they give.
constexpr int64_t kRunsPerPartMin = 10'000;
constexpr unsigned kPartsMax = 8;

/// Keys [from, to) of the table of runs, and what was read there.
struct Part {
  std::string from;
  std::string to;  // Empty: the end of the table.
  std::map<RunId, engine::Run> runs;
  absl::Status status;
};

/// Parts of about equally many runs, cut between experiments; together they are the whole table.
std::vector<Part> Split(const engine::State& state) {
  int64_t total = 0;
  for (const auto& [id, experiment] : state.experiments) total += experiment.num_runs;
  const auto parts_max = static_cast<int64_t>(std::clamp(std::thread::hardware_concurrency(), 1U, kPartsMax));
  const int64_t size = std::max(kRunsPerPartMin, (total + parts_max - 1) / parts_max);
  std::vector<Part> parts(1);
  int64_t in_part = 0;
  for (const auto& [id, experiment] : state.experiments) {
    if (in_part >= size) {
      parts.back().to = ExperimentKey(id);
      parts.push_back({.from = parts.back().to});
      in_part = 0;
    }
    in_part += experiment.num_runs;
  }
  return parts;
}

/// A run has two records, one behind the other; the second is merged into the first.
absl::Status Read(Backend& backend, Part& part) {
  v1::StoredRun stored;
  absl::Status status;
  const auto visit = [&](std::string_view key, std::string_view value) {
    const bool is_fixed = key.back() == '\0';
    if (is_fixed) stored.Clear();
    if (!stored.MergeFromString({value.data(), value.size()})) {
      status = Unreadable(backend, Table::kRuns, key, fmt::format("is no {}", stored.GetTypeName()));
      return false;
    }
    if (is_fixed) return true;
    const RunId id = RunOfKey(key);
    auto run = FromStored(id, stored);
    if (!run.ok()) {
      status = Unreadable(backend, Table::kRuns, key, std::string(run.status().message()));
      return false;
    }
    part.runs.emplace_hint(part.runs.end(), id, *std::move(run));
    return true;
  };
  NORMLAB_RETURN_IF_ERROR(backend.Scan(Table::kRuns, part.from, part.to, visit));
  return status;
}

}  // namespace

absl::Status LoadRuns(Backend& backend, engine::State& state) {
  std::vector<Part> parts = Split(state);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < parts.size(); ++i) {
      threads.emplace_back([&backend, &part = parts[i]] { part.status = Read(backend, part); });
    }
    parts[0].status = Read(backend, parts[0]);
  }
  for (Part& part : parts) {
    NORMLAB_RETURN_IF_ERROR(part.status);
    while (!part.runs.empty()) state.runs.insert(state.runs.end(), part.runs.extract(part.runs.begin()));
  }
  return absl::OkStatus();
}

}  // namespace normlab::store
