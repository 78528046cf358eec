// How programs of normlab open a channel to the coordinator: encrypted, and with a token if there is one.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace normlab {

/// Files are in PEM form and read again when they change. Empty: not used.
struct ChannelSecurity {
  std::string ca_file;    // Authorities of the coordinator's certificate. Empty: plain text.
  std::string cert_file;  // This program's certificate and key, for mutual TLS.
  std::string key_file;
  std::string token_file;
  // Plain text to another host has to be asked for with both.
  bool is_plaintext_asked = false;
  bool is_plaintext_off_loopback_asked = false;
};

/// True for 127.x.y.z, ::1, [::1] and localhost.
bool IsLoopbackHost(const std::string& host);

/// OK if a channel to "HOST:PORT" may be opened so. INVALID_ARGUMENT for a bad address or half an identity;
/// FAILED_PRECONDITION for plain text off the loopback that was not said twice, and for certificates and tokens that
/// cannot be used at `now`. Messages name the flags --tls-ca, --tls-cert, --tls-key, --token-file, and `address_flag`.
absl::Status CheckChannelSecurity(const std::string& address_flag, const std::string& address,
                                  const ChannelSecurity& security, absl::Time now);

/// A channel that connects on first use; `security` was checked. Each call carries the token that the file holds then.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address, const ChannelSecurity& security,
                                           const grpc::ChannelArguments& arguments);

/// Why no connection comes about, in words; empty if it is not about TLS. Blocks for some seconds at most.
std::string ExplainConnection(const std::string& address, const ChannelSecurity& security);

enum class ClientCertificates {
  kNone,      // Not asked for.
  kVerified,  // Asked for, and checked if given.
  kRequired,  // Without one there is no connection.
};

/// Files are read again when they change; they were checked.
struct ServerSecurity {
  std::string cert_file;
  std::string key_file;
  std::string client_ca_file;  // Authorities of clients' certificates. Empty with kNone.
  ClientCertificates client_certificates = ClientCertificates::kNone;
};
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const ServerSecurity& security);

}  // namespace normlab
