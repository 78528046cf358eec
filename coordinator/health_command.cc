#include "coordinator/health_command.h"

#include <fmt/format.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/clock.h"
#include "common/grpc_channel.h"
#include "common/status.h"

namespace normlab {
namespace {

/// HOST:PORT to connect to, from "grpc" of address.json.
absl::StatusOr<std::string> ReadAddress(const std::string& data_folder) {
  const std::filesystem::path path = std::filesystem::path(data_folder) / "address.json";
  std::ifstream file(path);
  const nlohmann::json document = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("grpc") || !document["grpc"].is_string()) {
    return absl::FailedPreconditionError(
        fmt::format("{} has no address: no coordinator has served --data {} yet", path.string(), data_folder));
  }
  const std::string address = document["grpc"];
  const size_t colon = address.rfind(':');
  const std::string host = address.substr(0, colon);
  if (host == "0.0.0.0") return "127.0.0.1" + address.substr(colon);
  if (host == "[::]") return "[::1]" + address.substr(colon);
  return address;
}

// HealthCheckResponse{status: SERVING} on the wire; the request, with no service named, is empty. The stubs of
// grpc.health.v1 are in no package of Debian.
constexpr std::string_view kServing = "\x08\x01";

absl::Status CallHealth(const std::string& address, std::shared_ptr<grpc::Channel> channel, double timeout_seconds) {
  grpc::GenericStub stub(std::move(channel));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int64_t>(timeout_seconds * 1000)));
  context.set_wait_for_ready(true);
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;  // A buffer without any slice is no message to the server.
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::ByteBuffer(&nothing, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool is_ok = false;
  queue.Next(&tag, &is_ok);
  if (!status.ok()) {
    return absl::UnavailableError(
        fmt::format("{} does not answer within {} s: {}", address, timeout_seconds, status.error_message()));
  }
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (answer.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  if (bytes == kServing) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("{} says that it does not serve", address));
}

}  // namespace

absl::Status CheckHealth(const std::string& data_folder, const HealthQuery& query) {
  NORMLAB_ASSIGN_OR_RETURN(const std::string address, ReadAddress(data_folder));
  ChannelSecurity security{.ca_file = query.ca_file};
  if (!query.ca_file.empty()) {
    security.cert_file = query.cert_file;
    security.key_file = query.key_file;
  } else {
    // Nothing secret is said: a health check has no token.
    security.is_plaintext_asked = security.is_plaintext_off_loopback_asked = true;
  }
  NORMLAB_RETURN_IF_ERROR(CheckChannelSecurity("address.json", address, security, RealClock().Now()));
  grpc::ChannelArguments arguments;
  if (!query.tls_name.empty()) arguments.SetSslTargetNameOverride(query.tls_name);
  return CallHealth(address, OpenChannel(address, security, arguments), query.timeout_seconds);
}

void AddHealthCommand(CLI::App& app, const std::string& data_folder, const SecurityFlags& security,
                      std::function<absl::Status()>& action) {
  auto query = std::make_shared<HealthQuery>();
  CLI::App* health =
      app.add_subcommand("health", "Exit with 0 if the coordinator of the data folder serves, else with 1");
  health->footer(
      "Examples:\n"
      "  normlab-coordinator --data DIR health\n"
      "  normlab-coordinator --data DIR health --tls-ca ca.crt --tls-name normlab.example.org");
  health
      ->add_option("--tls-ca", query->ca_file, "PEM file of the authorities of its certificate; without it plain text")
      ->type_name("FILE");
  health->add_option("--tls-name", query->tls_name, "Name in its certificate, if that is not the address")
      ->type_name("HOST");
  health->add_option("--timeout", query->timeout_seconds, "Seconds to wait for the answer")
      ->check(CLI::Range(0.1, 600.0))
      ->capture_default_str();
  health->callback([&action, &data_folder, &security, query] {
    action = [&data_folder, &security, query] {
      query->cert_file = security.tls_cert;
      query->key_file = security.tls_key;
      return CheckHealth(data_folder, *query);
    };
  });
}

}  // namespace normlab
