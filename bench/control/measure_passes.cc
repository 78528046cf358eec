#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "bench/control/measurements.h"
#include "common/status.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/scheduler/testing/large_state.h"
#include "fmt/format.h"

namespace normlab::bench {
namespace {

constexpr int kNumWorkers = 10'000;
constexpr int kNumQueued = 100'000;

struct Queue {
  const char* figure;
  int world_size;
  std::map<std::string, std::string> worker_labels;
  size_t placements;  // What a pass must make of it.
};

absl::StatusOr<Figure> MeasurePass(const Queue& queue, int rounds) {
  engine::State state;
  NORMLAB_RETURN_IF_ERROR(scheduler::AddWorkers(state, kNumWorkers));
  NORMLAB_RETURN_IF_ERROR(scheduler::AddRuns(state, kNumQueued, queue.world_size, queue.worker_labels));
  std::vector<double> milliseconds;
  for (int round = 0; round < rounds; ++round) {
    const absl::Time begin = absl::Now();
    const scheduler::Decision decision = scheduler::Schedule(state, {}, absl::UnixEpoch());
    milliseconds.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
    if (decision.placements.size() != queue.placements) {
      return absl::InternalError(fmt::format("{}: a pass makes {} placements, not {}", queue.figure,
                                             decision.placements.size(), queue.placements));
    }
  }
  return Summarize(queue.figure, "ms", milliseconds);
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasurePasses(const Options& options, const std::string& /*folder*/) {
  const std::vector<Queue> queues = {{"control_pass_of_10000_placements", 1, {}, kNumWorkers},
                                     {"control_pass_of_625_gangs", 16, {}, kNumWorkers / 16},
                                     {"control_pass_where_nothing_fits", 6000, {{"gpu", "h100"}}, 0}};
  std::vector<Figure> figures;
  for (const Queue& queue : queues) {
    NORMLAB_ASSIGN_OR_RETURN(Figure figure, MeasurePass(queue, options.rounds));
    figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace normlab::bench
