// Certificates and channels against a real gRPC server with TLS.
#include "common/grpc_channel.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/time/clock.h"
#include "common/testing/certificates.h"
#include "common/tls_files.h"
#include "common/token.h"
#include "fmt/format.h"

namespace normlab {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    authority_ = std::make_unique<TestAuthority>(folder_, "ca", absl::Now());
    authority_->Issue("server", "IP:127.0.0.1");
    authority_->Issue("client", "DNS:client");
    TestAuthority other(folder_, "other-ca", absl::Now());
    other.Issue("stranger", "DNS:stranger");
  }
  ~TlsTest() override { std::filesystem::remove_all(folder_); }

  std::string File(const std::string& name) const { return (folder_ / name).string(); }

  void Serve(ClientCertificates client_certificates, const std::string& name = "server") {
    Start(MakeServerCredentials({.cert_file = File(name + ".crt"),
                                 .key_file = File(name + ".key"),
                                 .client_ca_file = File("ca.crt"),
                                 .client_certificates = client_certificates}));
  }

  void Start(std::shared_ptr<grpc::ServerCredentials> credentials) {
    server_.reset();
    service_ = std::make_unique<grpc::CallbackGenericService>();
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(service_.get());  // gRPC does not start a server that serves nothing.
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", std::move(credentials), &port);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = fmt::format("127.0.0.1:{}", port);
  }

  bool Connects(const ChannelSecurity& security) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel = OpenChannel(address_, security, arguments);
    // Refused certificates show as a channel that falls back again and again.
    return channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(2));
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) /
      ("tls_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  std::unique_ptr<TestAuthority> authority_;
  std::unique_ptr<grpc::CallbackGenericService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(TlsTest, AGoodIdentityIsAccepted) {
  EXPECT_TRUE(CheckIdentity("--x", File("server.crt"), File("server.key"), absl::Now()).ok());
  EXPECT_TRUE(CheckAuthorities("--x", File("ca.crt"), absl::Now()).ok());
  EXPECT_THAT(ReadCertificate(File("server.crt"))->subject, HasSubstr("server"));
}

TEST_F(TlsTest, EachBadIdentityHasItsOwnMessage) {
  const auto check = [this](const std::string& cert, const std::string& key, absl::Time now = absl::Now()) {
    return CheckIdentity("--tls-cert and --tls-key", File(cert), File(key), now);
  };
  const absl::Status missing = check("nowhere.crt", "server.key");
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(MessageOf(missing), HasSubstr("nowhere.crt: No such file"));
  const absl::Status mismatch = check("server.crt", "client.key");
  EXPECT_TRUE(absl::IsFailedPrecondition(mismatch));
  EXPECT_THAT(MessageOf(mismatch), HasSubstr("does not belong to the certificate of CN=server"));
  EXPECT_THAT(MessageOf(check("server.crt", "server.key", absl::Now() + absl::Hours(48))), HasSubstr("expired on"));
  EXPECT_THAT(MessageOf(check("server.crt", "server.key", absl::Now() - absl::Hours(48))), HasSubstr("valid from"));
  EXPECT_THAT(MessageOf(check("server.key", "server.key")), HasSubstr("holds no certificate"));
  EXPECT_THAT(MessageOf(check("server.crt", "server.crt")), HasSubstr("holds no private key"));
}

TEST_F(TlsTest, PlainTextOffTheLoopbackHasToBeSaidTwice) {
  const auto check = [](const std::string& address, const ChannelSecurity& security = {}) {
    return CheckChannelSecurity("--server", address, security, absl::Now());
  };
  for (const char* address : {"127.0.0.1:7070", "localhost:7070", "127.8.0.1:1", "[::1]:65535"}) {
    EXPECT_TRUE(check(address).ok()) << address;
  }
  for (const char* address : {"10.0.0.1:7070", "example.com:7070", "0.0.0.0:7070", "127.0.0.1.example.com:7070"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(check(address))) << address;
    EXPECT_TRUE(absl::IsFailedPrecondition(check(address, {.is_plaintext_asked = true}))) << address;
    EXPECT_TRUE(absl::IsFailedPrecondition(check(address, {.is_plaintext_off_loopback_asked = true}))) << address;
    EXPECT_TRUE(check(address, {.is_plaintext_asked = true, .is_plaintext_off_loopback_asked = true}).ok()) << address;
    EXPECT_TRUE(check(address, {.ca_file = File("ca.crt")}).ok()) << address;
  }
  for (const char* address : {"127.0.0.1", "127.0.0.1:", ":7070", "127.0.0.1:0", "127.0.0.1:70000", "localhost:http"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(check(address))) << address;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(check("127.0.0.1:1", {.cert_file = "a", .key_file = "b"})));
}

TEST_F(TlsTest, AClientChecksTheServersCertificateAndName) {
  Serve(ClientCertificates::kNone);
  EXPECT_TRUE(Connects({.ca_file = File("ca.crt")}));
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("ca.crt")}), IsEmpty());
  EXPECT_FALSE(Connects({.ca_file = File("other-ca.crt")}));
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("other-ca.crt")}), HasSubstr("unable to get local issuer"));
  EXPECT_FALSE(Connects({})) << "plain text to a server with TLS";
}

TEST_F(TlsTest, ACertificateForAnotherNameOrOfAnotherTimeIsSaidInWords) {
  authority_->Issue("server", "DNS:elsewhere");
  Serve(ClientCertificates::kNone);
  EXPECT_FALSE(Connects({.ca_file = File("ca.crt")}));
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("ca.crt")}), HasSubstr("IP address mismatch"));
  authority_->Issue("old", "IP:127.0.0.1", absl::Minutes(30));  // It was over half an hour ago.
  Serve(ClientCertificates::kNone, "old");
  EXPECT_FALSE(Connects({.ca_file = File("ca.crt")}));
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("ca.crt")}), HasSubstr("certificate has expired"));
}

TEST_F(TlsTest, AServerChecksClientsCertificates) {
  Serve(ClientCertificates::kRequired);
  const ChannelSecurity with_certificate = {
      .ca_file = File("ca.crt"), .cert_file = File("client.crt"), .key_file = File("client.key")};
  EXPECT_TRUE(Connects(with_certificate));
  EXPECT_THAT(ExplainConnection(address_, with_certificate), IsEmpty());
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("ca.crt")}), HasSubstr("refuses this client's certificate"));
  const ChannelSecurity stranger = {
      .ca_file = File("ca.crt"), .cert_file = File("stranger.crt"), .key_file = File("stranger.key")};
  EXPECT_THAT(ExplainConnection(address_, stranger), HasSubstr("refuses this client's certificate"));
}

TEST_F(TlsTest, AnOptionalCertificateMayBeLeftOut) {
  Serve(ClientCertificates::kVerified);
  EXPECT_TRUE(Connects({.ca_file = File("ca.crt")}));
  EXPECT_TRUE(Connects({.ca_file = File("ca.crt"), .cert_file = File("client.crt"), .key_file = File("client.key")}));
}

TEST_F(TlsTest, AServerThatSpeaksPlainTextIsSaidInWords) {
  Start(grpc::InsecureServerCredentials());
  EXPECT_THAT(ExplainConnection(address_, {.ca_file = File("ca.crt")}), HasSubstr("does not speak TLS"));
}

}  // namespace
}  // namespace normlab
