// Every command adds itself to the program; one file each.
#pragma once

#include "CLI/CLI.hpp"
#include "cli/session.h"

namespace normlab::cli {

void AddSubmit(CLI::App& app, Session& session);
void AddList(CLI::App& app, Session& session);
void AddShow(CLI::App& app, Session& session);
void AddWatch(CLI::App& app, Session& session);
void AddLogs(CLI::App& app, Session& session);
void AddCancel(CLI::App& app, Session& session);
void AddRequeue(CLI::App& app, Session& session);
void AddHold(CLI::App& app, Session& session);
void AddPriority(CLI::App& app, Session& session);
void AddQueue(CLI::App& app, Session& session);
void AddCompare(CLI::App& app, Session& session);
void AddExport(CLI::App& app, Session& session);
void AddAnalyze(CLI::App& app, Session& session);
void AddReport(CLI::App& app, Session& session);
void AddWorkers(CLI::App& app, Session& session);
void AddCordon(CLI::App& app, Session& session);
void AddAdmin(CLI::App& app, Session& session);
void AddUp(CLI::App& app, Session& session);
void AddDown(CLI::App& app, Session& session);
void AddData(CLI::App& app, Session& session);
void AddVersion(CLI::App& app, Session& session);
void AddCompletion(CLI::App& app, Session& session);

/// A subcommand with its options, its examples below the help, and what it does: `run(options)` gives the exit code.
template <typename Options, typename Run>
CLI::App* AddCommand(CLI::App& app, Session& session, const std::string& name, const std::string& description,
                     const std::string& examples, std::shared_ptr<Options> options, Run run) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer("Examples:\n" + examples);
  command->callback([&session, options, run] { session.action = [options, run] { return run(*options); }; });
  return command;
}

}  // namespace normlab::cli
