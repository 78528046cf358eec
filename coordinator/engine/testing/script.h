#pragma once

#include <absl/time/time.h>

#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine/engine.h"

// Tests of the engine as scripts: a line that starts with "> " is a command, what stands below is what follows from it.
//
//   > submit N [world=W] [retries=R] [priority=P] [need=k:v] [label=k:v] [id=REQUEST] [digest=D]
//       [owner=O] [smaller=W,...] [on_preemption=POLICY] [on_loss=POLICY]      with POLICY one of front, back, never
//   > hello W [inc=I] [host=H] [build=B] [k:v ...] [running=REF,...]     > heartbeat|drain|disconnect W [inc=I]
//   > place RUN W...                                          > cordon|uncordon W
//   > report W REF [inc=I] [seq=S] KIND ...    with KIND one of
//       open ADDRESS | started FIRST_STEP | step S | layers S | eval S | checkpoint S NAME | log WORDS |
//       finished STEP [diverged] | stopped STEP | failed STEP WORDS | failed_for_good STEP WORDS |
//       exit CODE [WORDS] | signal NUMBER | stuck NUMBER | not_started WORDS
//   > cancel SELECTOR... [why=WORD]            > requeue SELECTOR... [scratch] [checkpoint=NAME] [priority=P]
//   [id=REQUEST] > hold|release SELECTOR...                 > priority P SELECTOR... > preempt RUN BENEFICIARY > policy
//   [half_life=S] [aging=S] [run_time_min=S] [workers=N] [queued=N]
//       with SELECTOR one of RUN, EXPERIMENT, label=k:v, state=NAME, owner=O
//   > wait SECONDS     time goes on, then Tick; the deadline after it
//   > restart          of the coordinator: what is not stored is forgotten
//   > runs             > workers             > owners (usage now)             > verbose (acks and lease renewals, too)
//
// Times are relative to the beginning. REF is RUN#ATTEMPT/RANK.
namespace normlab::engine {

/// A coordinator without disk and network.
class Script {
 public:
  Script();

  /// Runs one command, without its "> "; returns what follows, one line each. Unknown words end the program.
  std::string Do(const std::string& line);

  const State& state() const { return state_; }
  absl::Time now() const { return now_; }
  const Policy& policy() const { return options_.policy; }

 private:
  struct Words;
  std::string Execute(const Command& command);
  std::string Report(Words& words);
  std::string Wait(Words& words);
  std::string Restart();

  Options options_;
  State state_;
  absl::Time now_;
  std::map<std::pair<std::string, std::string>, int64_t> sequences_;
  int num_submits_ = 0;
  bool is_verbose_ = false;
};

/// What a coordinator's restart leaves of its state: what is stored, with indexes built at `now`.
State AfterRestart(State state, absl::Time now, absl::Duration lease);

struct Scenario {
  std::string title;  // The rule it shows, as a sentence.
  std::vector<std::string> commands;
  std::string text;  // Commands and what follows, as written.
};

/// For the name of its test.
void PrintTo(const Scenario& scenario, std::ostream* out);

/// The scenarios of a file: each begins with "=== TITLE".
std::vector<Scenario> ReadScenarios(const std::string& path);

/// The scenario's text as it should be written if all that follows is right.
std::string RunScenario(const Scenario& scenario);

}  // namespace normlab::engine
