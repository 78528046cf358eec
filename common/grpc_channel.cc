#include "common/grpc_channel.h"

#include <arpa/inet.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/client_interceptor.h>

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/log.h"
#include "common/status.h"
#include "common/tls_files.h"
#include "common/token.h"
#include "fmt/format.h"

namespace normlab {
namespace {

namespace tls = grpc::experimental;

// How often gRPC looks whether a file has changed.
constexpr unsigned kRefreshSeconds = 2;

/// Puts the token into each call. gRPC's own call credentials refuse to work without TLS, which loopback may lack.
class AddToken final : public tls::Interceptor {
 public:
  explicit AddToken(TokenFile& file) : file_(file) {}

  void Intercept(tls::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(tls::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      const auto token = file_.Get();
      if (token.ok()) {
        methods->GetSendInitialMetadata()->emplace("authorization", "Bearer " + *token);
      } else {
        spdlog::warn("{}", std::string(token.status().message()));  // The server will refuse the call.
      }
    }
    methods->Proceed();
  }

 private:
  TokenFile& file_;
};

class AddTokenFactory final : public tls::ClientInterceptorFactoryInterface {
 public:
  explicit AddTokenFactory(const std::string& path) : file_(path) {}
  tls::Interceptor* CreateClientInterceptor(tls::ClientRpcInfo* /*info*/) override { return new AddToken(file_); }

 private:
  TokenFile file_;
};

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const ChannelSecurity& security) {
  if (security.ca_file.empty()) return grpc::InsecureChannelCredentials();
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<tls::FileWatcherCertificateProvider>(
      security.key_file, security.cert_file, security.ca_file, kRefreshSeconds));
  options.watch_root_certs();
  if (!security.cert_file.empty()) options.watch_identity_key_cert_pairs();
  return tls::TlsCredentials(options);
}

absl::Status CheckPlaintext(const std::string& address_flag, const std::string& address, const std::string& host,
                            const ChannelSecurity& security) {
  if (!security.cert_file.empty() || !security.key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key need --tls-ca: without it nothing is encrypted");
  }
  if (IsLoopbackHost(host) || (security.is_plaintext_asked && security.is_plaintext_off_loopback_asked)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      fmt::format("{} {}: '{}' is not a loopback address, and without --tls-ca nothing is encrypted: anyone on the way "
                  "can read and change what is said, tokens too. Give --tls-ca FILE; or tunnel the port (ssh -L "
                  "7070:127.0.0.1:7070); or say both --plaintext and --plaintext-off-loopback",
                  address_flag, address, host));
}

}  // namespace

bool IsLoopbackHost(const std::string& host) {
  if (absl::AsciiStrToLower(host) == "localhost") return true;
  in_addr ipv4{};
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) return (ntohl(ipv4.s_addr) >> 24) == 127;
  const bool has_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  in6_addr ipv6{};
  return inet_pton(AF_INET6, (has_brackets ? host.substr(1, host.size() - 2) : host).c_str(), &ipv6) == 1 &&
         IN6_IS_ADDR_LOOPBACK(&ipv6);
}

absl::Status CheckChannelSecurity(const std::string& address_flag, const std::string& address,
                                  const ChannelSecurity& security, absl::Time now) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return absl::InvalidArgumentError(fmt::format(
        "{} '{}' is not HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:7070", address_flag, address));
  }
  if (security.ca_file.empty()) {
    NORMLAB_RETURN_IF_ERROR(CheckPlaintext(address_flag, address, address.substr(0, colon), security));
  } else {
    NORMLAB_RETURN_IF_ERROR(CheckAuthorities("--tls-ca", security.ca_file, now));
    if (security.cert_file.empty() != security.key_file.empty()) {
      return absl::InvalidArgumentError("--tls-cert and --tls-key belong together: give both or none");
    }
    if (!security.cert_file.empty()) {
      NORMLAB_RETURN_IF_ERROR(CheckIdentity("--tls-cert and --tls-key", security.cert_file, security.key_file, now));
    }
  }
  if (security.token_file.empty()) return absl::OkStatus();
  const auto token = ReadTokenFile(security.token_file);
  return token.ok() ? absl::OkStatus()
                    : absl::Status(token.status().code(),
                                   fmt::format("--token-file: {}", std::string(token.status().message())));
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address, const ChannelSecurity& security,
                                           const grpc::ChannelArguments& arguments) {
  std::vector<std::unique_ptr<tls::ClientInterceptorFactoryInterface>> interceptors;
  if (!security.token_file.empty()) interceptors.push_back(std::make_unique<AddTokenFactory>(security.token_file));
  return tls::CreateCustomChannelWithInterceptors(address, MakeChannelCredentials(security), arguments,
                                                  std::move(interceptors));
}

std::string ExplainConnection(const std::string& address, const ChannelSecurity& security) {
  if (security.ca_file.empty()) return "";
  const absl::Status why = DiagnoseTls(address, security.ca_file, security.cert_file, security.key_file);
  return absl::IsFailedPrecondition(why) ? std::string(why.message()) : "";
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const ServerSecurity& security) {
  tls::TlsServerCredentialsOptions options(std::make_shared<tls::FileWatcherCertificateProvider>(
      security.key_file, security.cert_file, security.client_ca_file, kRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (security.client_certificates != ClientCertificates::kNone) {
    options.watch_root_certs();
    options.set_cert_request_type(security.client_certificates == ClientCertificates::kRequired
                                      ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

}  // namespace normlab
