#include "coordinator/flags.h"

#include <fmt/format.h>

#include "common/grpc_channel.h"
#include "common/status.h"
#include "common/tls_files.h"

namespace normlab {
namespace {

absl::Status CheckGrpcPlaintext(const SecurityFlags& flags, const service::ListenAddress& address) {
  const bool is_said_twice = flags.is_plaintext_asked && flags.is_plaintext_off_loopback_asked;
  if (address.is_loopback() || is_said_twice) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "--listen {}: it is not of the loopback (127.0.0.0/8 or ::1), and without TLS everybody on the way can "
      "read and change what is said, tokens too. Give --tls-cert FILE and --tls-key FILE; or say both "
      "--plaintext and --plaintext-off-loopback",
      address.ToString()));
}

// civetweb has no TLS that works here: docs/decisions/0011.
absl::Status CheckHttpPlaintext(const SecurityFlags& flags, const service::ListenAddress& address) {
  const bool is_said_twice = flags.is_http_plaintext_asked && flags.is_http_plaintext_off_loopback_asked;
  if (address.is_loopback() || is_said_twice) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "--http {}: it is not of the loopback (127.0.0.0/8 or ::1), and metrics are plain text for everybody on "
      "the way. Put a proxy with TLS before a loopback address; or say both --http-plaintext and "
      "--http-plaintext-off-loopback",
      address.ToString()));
}

absl::Status CheckTls(const SecurityFlags& flags, absl::Time now) {
  if (flags.tls_cert.empty() || flags.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together: give both or none");
  }
  NORMLAB_RETURN_IF_ERROR(CheckIdentity("--tls-cert and --tls-key", flags.tls_cert, flags.tls_key, now));
  if (flags.tls_client_ca.empty()) return absl::OkStatus();
  return CheckAuthorities("--tls-client-ca", flags.tls_client_ca, now);
}

}  // namespace

void AddSecurityFlags(CLI::App& app, SecurityFlags& flags) {
  const std::string group = "Security";
  app.add_option("--tls-cert", flags.tls_cert,
                 "PEM file of the coordinator's certificate, with those that it is issued by")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tls-key", flags.tls_key, "PEM file of its key")->type_name("FILE")->group(group);
  app.add_option("--tls-client-ca", flags.tls_client_ca,
                 "PEM file of the authorities that clients' certificates are checked against (mutual TLS)")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tls-client-cert-from", flags.tls_client_cert_from,
                 "Who needs a certificate if there is --tls-client-ca: workers, or all")
      ->check(CLI::IsMember({"workers", "all"}))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--require-tokens", flags.asks_for_tokens,
               "Ask every caller for a token; off the loopback this is always so")
      ->group(group);
  app.add_option("--rate-limit", flags.requests_per_second, "Requests per second of one token; 0: any number")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--plaintext", flags.is_plaintext_asked,
               "Listen without TLS off the loopback; needs --plaintext-off-loopback as well")
      ->group(group);
  app.add_flag("--plaintext-off-loopback", flags.is_plaintext_off_loopback_asked,
               "Everybody on the network may read and change what is said")
      ->group(group);
  app.add_flag("--http-plaintext", flags.is_http_plaintext_asked,
               "Serve --http off the loopback; needs --http-plaintext-off-loopback as well")
      ->group(group);
  app.add_flag("--http-plaintext-off-loopback", flags.is_http_plaintext_off_loopback_asked,
               "Everybody on the network may read the metrics")
      ->group(group);
}

absl::Status CheckSecurityFlags(const SecurityFlags& flags, const service::ListenAddress& grpc,
                                const service::ListenAddress& http, absl::Time now) {
  if (flags.has_tls()) {
    NORMLAB_RETURN_IF_ERROR(CheckTls(flags, now));
  } else if (!flags.tls_client_ca.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  } else {
    NORMLAB_RETURN_IF_ERROR(CheckGrpcPlaintext(flags, grpc));
  }
  return CheckHttpPlaintext(flags, http);
}

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const SecurityFlags& flags) {
  if (!flags.has_tls()) return nullptr;
  ServerSecurity security{
      .cert_file = flags.tls_cert, .key_file = flags.tls_key, .client_ca_file = flags.tls_client_ca};
  if (!flags.tls_client_ca.empty()) {
    security.client_certificates =
        flags.tls_client_cert_from == "all" ? ClientCertificates::kRequired : ClientCertificates::kVerified;
  }
  return MakeServerCredentials(security);
}

}  // namespace normlab
