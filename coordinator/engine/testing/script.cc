#include "coordinator/engine/testing/script.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "coordinator/engine/testing/transcript.h"

namespace normlab::engine {
namespace {

const absl::Time kStart = absl::FromCivil(absl::CivilSecond(2026, 1, 1, 12, 0, 0), absl::UTCTimeZone());

[[noreturn]] void Unknown(const std::string& what) {
  fmt::print(stderr, "a script does not make sense here: \"{}\"\n", what);
  std::abort();
}

int64_t Number(const std::string& text) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) Unknown(text);
  return number;
}

std::pair<std::string, std::string> Pair(const std::string& text) {
  return absl::StrSplit(text, absl::MaxSplits(':', 1));
}

AttemptRef Ref(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::ByAnyChar("#/"));
  const auto run = RunId::Parse(parts[0]);
  if (parts.size() != 3 || !run) Unknown(text);
  return {*run, static_cast<int>(Number(parts[1])), static_cast<int>(Number(parts[2]))};
}

std::vector<int> Numbers(const std::string& text) {
  std::vector<int> numbers;
  for (const auto& part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    numbers.push_back(static_cast<int>(Number(std::string(part))));
  }
  return numbers;
}

RequeuePolicy PolicyOf(const std::string& name) {
  if (name == "front") return RequeuePolicy::kFront;
  if (name == "back") return RequeuePolicy::kBack;
  if (name == "never") return RequeuePolicy::kNever;
  Unknown(name);
}

RunState StateOf(const std::string& name) {
  for (int i = 1; i <= 7; ++i) {
    if (Name(static_cast<RunState>(i)) == name) return static_cast<RunState>(i);
  }
  Unknown(name);
}

}  // namespace

/// The words of one command, taken one after the other; "key=value" words are options.
struct Script::Words {
  explicit Words(const std::string& line) {
    for (const auto& word : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
      const std::string text(word);
      const size_t equals = text.find('=');
      if (equals == std::string::npos) {
        plain.push_back(text);
      } else {
        options.emplace(text.substr(0, equals), text.substr(equals + 1));
      }
    }
  }
  std::string Take() {
    if (next == plain.size()) Unknown(absl::StrJoin(plain, " ") + " ...");
    return plain[next++];
  }
  bool IsAtEnd() const { return next == plain.size(); }
  std::string Rest() {
    std::string rest = absl::StrJoin(plain.begin() + static_cast<ptrdiff_t>(next), plain.end(), " ");
    next = plain.size();
    return rest;
  }
  std::string Option(const std::string& key, const std::string& otherwise) const {
    const auto found = options.find(key);
    return found == options.end() ? otherwise : found->second;
  }
  std::map<std::string, std::string> Pairs(const std::string& key) const {
    std::map<std::string, std::string> pairs;
    const auto [begin, end] = options.equal_range(key);
    for (auto option = begin; option != end; ++option) pairs.insert(Pair(option->second));
    return pairs;
  }

  std::vector<std::string> plain;
  std::multimap<std::string, std::string> options;
  size_t next = 0;
};

namespace {

template <typename Words>
CreateExperiment MakeSubmit(Words& words, int number) {
  CreateExperiment command;
  command.request_id = words.Option("id", fmt::format("request-{}", number));
  command.owner = words.Option("owner", "ada");
  command.spec_digest = words.Option("digest", "d1");
  command.priority = static_cast<int>(Number(words.Option("priority", "0")));
  command.labels = words.Pairs("label");
  const int64_t num_runs = Number(words.Take());
  for (int64_t i = 0; i < num_runs; ++i) {
    command.runs.push_back({.spec = "spec",
                            .worker_labels = words.Pairs("need"),
                            .world_size = static_cast<int>(Number(words.Option("world", "1"))),
                            .smaller_worlds = Numbers(words.Option("smaller", "")),
                            .on_preemption = PolicyOf(words.Option("on_preemption", "front")),
                            .on_loss = PolicyOf(words.Option("on_loss", "front")),
                            .retries_max = static_cast<int>(Number(words.Option("retries", "3"))),
                            .steps = 100});
  }
  return command;
}

template <typename Words>
Selector MakeSelector(Words& words) {
  Selector selector;
  selector.labels = words.Pairs("label");
  selector.owner = words.Option("owner", "");
  if (const std::string state = words.Option("state", ""); !state.empty()) selector.states = {StateOf(state)};
  while (!words.IsAtEnd()) {
    const std::string word = words.Take();
    if (word == "scratch") continue;
    if (const auto run = RunId::Parse(word)) {
      selector.runs.push_back(*run);
    } else if (const auto experiment = ExperimentId::Parse(word)) {
      selector.experiment = experiment;
    } else {
      Unknown(word);
    }
  }
  return selector;
}

template <typename Words>
WorkerHello MakeHello(Words& words) {
  const std::string name = words.Take();
  WorkerHello hello = {.worker = {name}, .incarnation = words.Option("inc", "a")};
  hello.info.build = words.Option("build", "");
  hello.info.host = words.Option("host", "host-of-" + name);
  while (!words.IsAtEnd()) hello.info.labels.insert(Pair(words.Take()));
  for (const auto& ref : absl::StrSplit(words.Option("running", ""), ',', absl::SkipEmpty())) {
    hello.running.push_back(Ref(std::string(ref)));
  }
  return hello;
}

template <typename Words>
Report MakeReport(Words& words) {
  const std::string kind = words.Take();
  if (kind == "open") return RendezvousOpen{words.Take()};
  if (kind == "log") return LogReported{words.Rest()};
  if (kind == "not_started") return TrainerExited{.detail = words.Rest()};
  const int64_t number = Number(words.Take());
  if (kind == "started") return RankStarted{.first_step = number};
  if (kind == "step") return StepReported{.step = number, .loss = 2.5, .payload = "step"};
  if (kind == "layers") return LayersReported{number, "layers"};
  if (kind == "eval") return EvalReported{{.step = number, .loss = 2.5}, "eval"};
  if (kind == "checkpoint") return CheckpointReported{{.step = number, .name = words.Take()}};
  if (kind == "finished") return TrainerFinished{.step = number, .diverged = words.Rest() == "diverged"};
  if (kind == "stopped") return TrainerStopped{number};
  if (kind == "failed") return TrainerFailed{.message = words.Rest(), .step = number};
  if (kind == "failed_for_good") return TrainerFailed{.message = words.Rest(), .step = number, .retryable = false};
  if (kind == "exit") return TrainerExited{.code = static_cast<int>(number), .detail = words.Rest()};
  if (kind == "stuck") return TrainerExited{.signal = static_cast<int>(number), .was_stuck = true};
  if (kind == "signal") return TrainerExited{.signal = static_cast<int>(number)};
  Unknown(kind);
}

template <typename Words>
RequeueRuns MakeRequeue(Words& words) {
  RequeueRuns command = {.actor = "bob", .reason = words.Option("why", ""), .request_id = words.Option("id", "")};
  for (const std::string& word : words.plain) command.from_scratch |= word == "scratch";
  command.checkpoint = words.Option("checkpoint", "");
  const std::string priority = words.Option("priority", "");
  if (!priority.empty()) command.priority = static_cast<int>(Number(priority));
  command.selector = MakeSelector(words);
  return command;
}

template <typename Words>
UpdateRuns MakeUpdate(const std::string& verb, Words& words) {
  UpdateRuns command = {.actor = "bob", .reason = words.Option("why", "")};
  if (verb == "priority") {
    command.priority = static_cast<int>(Number(words.Take()));
  } else {
    command.held = verb == "hold";
  }
  command.selector = MakeSelector(words);
  return command;
}

Policy MakePolicy(const std::multimap<std::string, std::string>& options, Policy policy) {
  for (const auto& [key, value] : options) {
    const int64_t number = Number(value);
    if (key == "half_life") {
      policy.usage_half_life = absl::Seconds(number);
    } else if (key == "aging") {
      policy.aging = absl::Seconds(number);
    } else if (key == "run_time_min") {
      policy.run_time_min = absl::Seconds(number);
    } else if (key == "workers") {
      policy.workers_per_user_max = static_cast<int>(number);
    } else if (key == "queued") {
      policy.queued_per_user_max = static_cast<int>(number);
    } else {
      Unknown(key);
    }
  }
  return policy;
}

}  // namespace

Script::Script() : now_(kStart) {}

std::string Script::Execute(const Command& command) {
  Changes changes;
  const absl::StatusOr<Reply> reply = Apply(options_, state_, command, now_, changes);
  if (!reply.ok()) return fmt::format("{}\n", reply.status().ToString());
  return Text(*reply) + Text(changes, is_verbose_);
}

std::string Script::Report(Words& words) {
  const std::string worker = words.Take();
  const std::string incarnation = words.Option("inc", "a");
  WorkerReport report = {.worker = {worker}, .incarnation = incarnation, .attempt = Ref(words.Take()), .time = now_};
  const std::string sequence = words.Option("seq", "");
  int64_t& last = sequences_[{worker, incarnation}];
  report.sequence = sequence.empty() ? ++last : Number(sequence);
  report.report = MakeReport(words);
  return Execute(report);
}

std::string Script::Wait(Words& words) {
  now_ += absl::Seconds(Number(words.Take()));
  const std::string text = Execute(Tick());
  const std::optional<absl::Time> next = NextDeadline(state_);
  return text + fmt::format("now {}, next deadline {}\n", absl::FormatDuration(now_ - kStart),
                            next ? absl::FormatDuration(*next - kStart) : "none");
}

std::string Script::Restart() {
  state_ = AfterRestart(std::move(state_), now_, options_.lease);
  return "";
}

std::string Script::Do(const std::string& line) {
  Words words(line);
  const std::string verb = words.Take();
  if (verb == "submit") return Execute(MakeSubmit(words, ++num_submits_));
  if (verb == "hello") return Execute(MakeHello(words));
  if (verb == "report") return Report(words);
  if (verb == "wait") return Wait(words);
  if (verb == "restart") return Restart();
  if (verb == "runs") return RunsText(state_, kStart);
  if (verb == "workers") return WorkersText(state_);
  if (verb == "policy") return options_.policy = MakePolicy(words.options, options_.policy), "";
  if (verb == "owners") return OwnersText(state_, options_.policy, now_);
  if (verb == "hold" || verb == "release" || verb == "priority") return Execute(MakeUpdate(verb, words));
  if (verb == "verbose") return is_verbose_ = true, "";
  if (verb == "requeue") return Execute(MakeRequeue(words));
  if (verb == "cancel") {
    const std::string why = words.Option("why", "");
    return Execute(CancelRuns{MakeSelector(words), "bob", why});
  }
  const std::string name = words.Take();
  const std::string incarnation = words.Option("inc", "a");
  if (verb == "heartbeat") return Execute(WorkerHeartbeat{{name}, incarnation});
  if (verb == "drain") return Execute(WorkerDraining{{name}, incarnation});
  if (verb == "disconnect") return Execute(WorkerDisconnected{{name}, incarnation});
  if (verb == "cordon" || verb == "uncordon") return Execute(CordonWorker{{name}, verb == "cordon", "bob"});
  if (verb == "preempt") {
    const auto victim = RunId::Parse(name);
    const auto beneficiary = RunId::Parse(words.Take());
    if (!victim || !beneficiary) Unknown(line);
    return Execute(PreemptRun{*victim, *beneficiary});
  }
  if (verb != "place") Unknown(line);
  const auto run = RunId::Parse(name);
  if (!run) Unknown(line);
  PlaceRun place = {.run = *run};
  while (!words.IsAtEnd()) place.gang.push_back({words.Take()});
  return Execute(place);
}

State AfterRestart(State state, absl::Time now, absl::Duration lease) {
  std::map<WorkerId, Worker> stored;
  for (const auto& [id, worker] : state.workers) {
    if (worker.is_cordoned) stored[id] = {.id = id, .is_cordoned = true};
  }
  state.workers = std::move(stored);
  BuildIndexes(state, now, lease);
  return state;
}

void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.title; }

std::vector<Scenario> ReadScenarios(const std::string& path) {
  std::ifstream file(path);
  if (!file) Unknown(path);
  std::vector<Scenario> scenarios;
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, "=== ")) {
      scenarios.push_back({.title = std::string(rest)});
      continue;
    }
    if (scenarios.empty()) Unknown(path + ": text before the first scenario");
    if (line.empty()) continue;
    scenarios.back().text += line + "\n";
    if (absl::ConsumePrefix(&rest, "> ")) scenarios.back().commands.emplace_back(rest);
  }
  return scenarios;
}

std::string RunScenario(const Scenario& scenario) {
  Script script;
  std::string text;
  for (const std::string& command : scenario.commands) text += fmt::format("> {}\n{}", command, script.Do(command));
  return text;
}

}  // namespace normlab::engine
