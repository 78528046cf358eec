#pragma once

#include <absl/status/status.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "coordinator/flags.h"

namespace normlab {

/// `normlab-coordinator --data DIR health`: asks the coordinator that serves this folder for its gRPC health, for
/// probes. Kubernetes' own gRPC probe speaks no TLS. The address is what the coordinator wrote to address.json; an
/// address of all interfaces is asked on the loopback. Sets `action` if the command is chosen; it needs no token.
void AddHealthCommand(CLI::App& app, const std::string& data_folder, const SecurityFlags& security,
                      std::function<absl::Status()>& action);

struct HealthQuery {
  std::string ca_file;   // Empty: plain text.
  std::string tls_name;  // Name in the coordinator's certificate; empty: the host of the address.
  std::string cert_file;
  std::string key_file;
  double timeout_seconds = 5;
};

/// OK if the coordinator of the folder serves. FAILED_PRECONDITION if it has written no address yet or if certificates
/// cannot be used; UNAVAILABLE if it does not answer in time or says that it does not serve.
absl::Status CheckHealth(const std::string& data_folder, const HealthQuery& query);

}  // namespace normlab
