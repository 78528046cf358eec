#include "cli/app.h"

#include "cli/commands.h"
#include "common/version.h"

namespace normlab::cli {

std::unique_ptr<CLI::App> MakeApp(Session& session) {
  auto app = std::make_unique<CLI::App>("normlab: normalization ablations on transformers, as a service", "normlab");
  app->require_subcommand(1);
  app->fallthrough();  // Global flags may stand after the command.
  app->set_version_flag("--version", std::string("normlab ") + kVersion);
  app->add_option("--server", session.server, "Where the coordinator listens")
      ->envname("NORMLAB_SERVER")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app->add_option("-o,--output", session.format, "table for people, json for programs")
      ->check(CLI::IsMember({"table", "json"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  app->footer(
      std::string("Examples:\n"
                  "  normlab up --detach                            # a coordinator and workers on this machine\n"
                  "  normlab data prepare --out .normlab/data/docs docs/\n"
                  "  normlab submit examples/ablation.yaml\n"
                  "  normlab watch exp-0001\n"
                  "  normlab compare exp-0001\n\n") +
      kExitCodesHelp);
  AddSubmit(*app, session);
  AddList(*app, session);
  AddShow(*app, session);
  AddWatch(*app, session);
  AddLogs(*app, session);
  AddCancel(*app, session);
  AddRequeue(*app, session);
  AddCompare(*app, session);
  AddWorkers(*app, session);
  AddCordon(*app, session);
  AddUp(*app, session);
  AddDown(*app, session);
  AddData(*app, session);
  AddVersion(*app, session);
  AddCompletion(*app, session);
  return app;
}

}  // namespace normlab::cli
