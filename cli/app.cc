#include "cli/app.h"

#include "cli/commands.h"
#include "common/version.h"

namespace normlab::cli {

namespace {

void AddSecurity(CLI::App& app, Session& session) {
  const std::string group = "Security";
  app.add_option("--token-file", session.security.token_file, "File with your token")
      ->envname("NORMLAB_TOKEN_FILE")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tls-ca", session.security.ca_file,
                 "PEM file of the authorities of the coordinator's certificate; without it plain text")
      ->envname("NORMLAB_TLS_CA")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tls-cert", session.security.cert_file, "PEM file of your own certificate, for mutual TLS")
      ->envname("NORMLAB_TLS_CERT")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tls-key", session.security.key_file, "PEM file of its key")
      ->envname("NORMLAB_TLS_KEY")
      ->type_name("FILE")
      ->group(group);
  app.add_flag("--plaintext", session.security.is_plaintext_asked,
               "Talk without TLS off the loopback; needs --plaintext-off-loopback as well")
      ->group(group);
  app.add_flag("--plaintext-off-loopback", session.security.is_plaintext_off_loopback_asked,
               "Everybody on the network may read and change what is said")
      ->group(group);
}

}  // namespace

std::unique_ptr<CLI::App> MakeApp(Session& session) {
  auto app = std::make_unique<CLI::App>("normlab: normalization ablations on transformers, as a service", "normlab");
  app->require_subcommand(1);
  app->fallthrough();  // Global flags may stand after the command.
  app->set_version_flag("--version", std::string("normlab ") + kVersion);
  app->add_option("--server", session.server, "Where the coordinator listens")
      ->envname("NORMLAB_SERVER")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  AddSecurity(*app, session);
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
                  "  normlab compare exp-0001\n"
                  "  normlab report exp-0001 -o report.html\n\n") +
      kExitCodesHelp);
  AddSubmit(*app, session);
  AddList(*app, session);
  AddShow(*app, session);
  AddWatch(*app, session);
  AddLogs(*app, session);
  AddCancel(*app, session);
  AddRequeue(*app, session);
  AddHold(*app, session);
  AddPriority(*app, session);
  AddQueue(*app, session);
  AddCompare(*app, session);
  AddExport(*app, session);
  AddAnalyze(*app, session);
  AddReport(*app, session);
  AddWorkers(*app, session);
  AddCordon(*app, session);
  AddAdmin(*app, session);
  AddUp(*app, session);
  AddDown(*app, session);
  AddData(*app, session);
  AddVersion(*app, session);
  AddCompletion(*app, session);
  return app;
}

}  // namespace normlab::cli
