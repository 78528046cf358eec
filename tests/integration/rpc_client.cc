// A small grpcurl for the tests. It knows no message of normlab: all types come from the server's reflection service,
// so every call also shows that reflection works.
//
//   normlab-test-rpc ADDRESS list                      names of all services, one per line
//   normlab-test-rpc ADDRESS SERVICE/METHOD JSON       one request; one line of JSON per response
//
// Exit 0: the call ended OK. 1: it did not, and the last line is {"error": {"code": N, "message": TEXT}}. 2: usage.
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "google/protobuf/descriptor_database.h"
#include "google/protobuf/dynamic_message.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "health.pb.h"
#include "nlohmann/json.hpp"
#include "reflection.grpc.pb.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::Message;
using grpc::reflection::v1alpha::ServerReflection;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

constexpr std::chrono::seconds kTimeout{60};

class Reflection : public google::protobuf::DescriptorDatabase {
 public:
  explicit Reflection(const std::shared_ptr<grpc::Channel>& channel) : stub_(ServerReflection::NewStub(channel)) {}

  grpc::Status Ask(const ServerReflectionRequest& request, ServerReflectionResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
    const auto stream = stub_->ServerReflectionInfo(&context);
    stream->Write(request);
    stream->WritesDone();
    const bool is_answered = stream->Read(response);
    if (const grpc::Status status = stream->Finish(); !status.ok() || is_answered) return status;
    return {grpc::StatusCode::INTERNAL, "the reflection service gave no answer"};
  }

  bool FindFileByName(const std::string& name, FileDescriptorProto* file) override {
    ServerReflectionRequest request;
    request.set_file_by_filename(name);
    return FindFile(request, file);
  }
  bool FindFileContainingSymbol(const std::string& symbol, FileDescriptorProto* file) override {
    ServerReflectionRequest request;
    request.set_file_containing_symbol(symbol);
    return FindFile(request, file);
  }
  bool FindFileContainingExtension(const std::string&, int, FileDescriptorProto*) override { return false; }

 private:
  bool FindFile(const ServerReflectionRequest& request, FileDescriptorProto* file) {
    ServerReflectionResponse response;
    return Ask(request, &response).ok() && response.has_file_descriptor_response() &&
           file->ParseFromString(response.file_descriptor_response().file_descriptor_proto(0));
  }

  const std::unique_ptr<ServerReflection::Stub> stub_;
};

int Fail(const grpc::Status& status) {
  const nlohmann::json error = {
      {"error", {{"code", static_cast<int>(status.error_code())}, {"message", status.error_message()}}}};
  fmt::print("{}\n", error.dump());
  return 1;
}

int List(Reflection& reflection) {
  ServerReflectionRequest request;
  request.set_list_services("*");
  ServerReflectionResponse response;
  if (const grpc::Status status = reflection.Ask(request, &response); !status.ok()) return Fail(status);
  for (const auto& service : response.list_services_response().service()) fmt::print("{}\n", service.name());
  return 0;
}

std::string ToText(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const grpc::Slice& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

void Print(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  fmt::print("{}\n", status.ok() ? json : status.ToString());
  std::fflush(stdout);
}

/// One request, any number of responses.
grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const Message& request,
                  Message* response) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  // One operation at a time: each is started and then waited for.
  const auto is_ok = [&queue] {
    void* tag;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto stream = stub.PrepareCall(&context, "/" + method, &queue);
  stream->StartCall(nullptr);
  is_ok();
  const grpc::Slice slice(request.SerializeAsString());
  stream->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  is_ok();
  grpc::ByteBuffer buffer;
  while (stream->Read(&buffer, nullptr), is_ok()) {
    if (!response->ParseFromString(ToText(buffer))) return {grpc::StatusCode::INTERNAL, "cannot parse a response"};
    Print(*response);
  }
  grpc::Status status;
  stream->Finish(&status, nullptr);
  is_ok();
  return status;
}

int Main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool is_list = arguments.size() == 2 && arguments[1] == "list";
  if (!is_list && arguments.size() != 3) {
    fmt::print(stderr, "usage: normlab-test-rpc ADDRESS list | ADDRESS SERVICE/METHOD JSON\n");
    return 2;
  }
  const auto channel = grpc::CreateChannel(arguments[0], grpc::InsecureChannelCredentials());
  Reflection reflection(channel);
  if (is_list) return List(reflection);

  // gRPC's own health service has no descriptor on the server; its file is compiled in here.
  google::protobuf::SimpleDescriptorDatabase health;
  FileDescriptorProto health_file;
  grpc::health::v1::HealthCheckRequest::descriptor()->file()->CopyTo(&health_file);
  health.Add(health_file);
  google::protobuf::MergedDescriptorDatabase database(&health, &reflection);
  google::protobuf::DescriptorPool pool(&database);

  const std::string method = arguments[1];
  std::string full_name = method;
  if (const size_t slash = full_name.find('/'); slash != std::string::npos) full_name[slash] = '.';
  const auto* descriptor = pool.FindMethodByName(full_name);
  if (descriptor == nullptr) {
    return Fail({grpc::StatusCode::UNIMPLEMENTED, fmt::format("reflection at {} knows no {}", arguments[0], method)});
  }
  google::protobuf::DynamicMessageFactory factory(&pool);
  const std::unique_ptr<Message> request(factory.GetPrototype(descriptor->input_type())->New());
  const std::unique_ptr<Message> response(factory.GetPrototype(descriptor->output_type())->New());
  const auto parsed = google::protobuf::util::JsonStringToMessage(arguments[2], request.get());
  if (!parsed.ok()) return Fail({grpc::StatusCode::INVALID_ARGUMENT, parsed.ToString()});
  const grpc::Status status = Call(channel, method, *request, response.get());
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

int main(int argc, char** argv) { return Main(argc, argv); }
