#pragma once

#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <grpcpp/security/server_credentials.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "coordinator/service/listen_address.h"

namespace normlab {

/// Who may talk to the coordinator, and how.
struct SecurityFlags {
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;
  std::string tls_client_cert_from = "workers";
  bool asks_for_tokens = false;
  double requests_per_second = 1000;
  bool is_plaintext_asked = false;
  bool is_plaintext_off_loopback_asked = false;
  bool is_http_plaintext_asked = false;
  bool is_http_plaintext_off_loopback_asked = false;

  bool has_tls() const { return !tls_cert.empty() || !tls_key.empty(); }
};

void AddSecurityFlags(CLI::App& app, SecurityFlags& flags);

/// OK if the coordinator may listen at these addresses so. FAILED_PRECONDITION for plain text off the loopback that was
/// not said twice and for certificates that cannot be used at `now`; INVALID_ARGUMENT for flags that do not go
/// together.
absl::Status CheckSecurityFlags(const SecurityFlags& flags, const service::ListenAddress& grpc,
                                const service::ListenAddress& http, absl::Time now);

/// Null for plain text. The flags were checked.
std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const SecurityFlags& flags);

}  // namespace normlab
