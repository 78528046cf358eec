#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "coordinator/service/change_log.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/history.h"
#include "tests/simulation/link.h"
#include "tests/simulation/observer.h"

namespace normlab::simulation {

/// Somebody who follows all runs through the coordinator's log of changes, now and then too slowly, and comes back with
/// the last revision that he has seen. Reads the log as service/watch_hub.cc does.
class Watcher {
 public:
  Watcher(Timeline& timeline, Dice dice, Observer& observer, Coordinator& coordinator);

  void Begin() { Connect(); }
  void BreakLink();
  /// From now on it reads fast.
  void Mend() { slowness_ = 0; }
  /// Compares what was seen with how it ended.
  void CheckEnd(const std::map<RunId, engine::Run>& runs) const;

 private:
  struct Batch {
    int64_t revision = 0;
    std::vector<History::Seen> runs;
  };
  /// The coordinator's end of one watch. Ends with the process, whose log it is.
  struct Stream {
    std::shared_ptr<Lane<Batch>> lane;
    std::weak_ptr<const service::ChangeLog> log;
    std::set<RunId> chosen;
    uint64_t sequence = 0;       // Of the next change to read.
    int64_t begin_revision = 0;  // Of the view whose runs were sent as they are.
    bool is_reading = false;
  };
  using StreamRef = std::shared_ptr<Stream>;

  void Connect();
  Batch Open(Stream& stream, const service::View& view);
  void ReadSoon(const StreamRef& stream);
  void ReadPage(const StreamRef& stream);
  void Take(const Batch& batch);

  Timeline& timeline_;
  Dice dice_;
  Observer& observer_;
  Coordinator& coordinator_;
  Path path_;
  std::shared_ptr<Lane<Batch>> lane_;
  double slowness_ = 0.1;
  int64_t revision_ = 0;  // Everything up to it was seen.
  std::map<RunId, History::Seen> runs_;
  // Of the present stream: the revisions that it has shown, and the last up to which it said to have shown everything.
  std::map<RunId, int64_t> seen_now_;
  int64_t told_now_ = 0;
};

}  // namespace normlab::simulation
