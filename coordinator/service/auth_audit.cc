#include "coordinator/service/auth_audit.h"

#include <fmt/format.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <sys/stat.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

namespace normlab::service {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

constexpr int kRequestDepthMax = 3;
constexpr int kResponseDepthMax = 2;  // What it has of the request, the line has already.
constexpr int kElementsMax = 5;
constexpr int kFieldsMax = 24;
constexpr size_t kTextBytesMax = 128;
constexpr size_t kResultBytesMax = 512;

std::string Cut(const std::string& text, size_t bytes_max) {
  return text.size() <= bytes_max ? text : text.substr(0, bytes_max) + "...";
}

/// The fields of the first `depth_left` levels.
Json ToJson(const Message& message, int depth_left);

/// A field's value; element `index` of a repeated one.
Json ValueOf(const Message& message, const FieldDescriptor& field, int index, int depth_left) {
  const auto& reflection = *message.GetReflection();
  const bool is_list = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return Cut(is_list ? reflection.GetRepeatedString(message, &field, index) : reflection.GetString(message, &field),
                 kTextBytesMax);
    case FieldDescriptor::CPPTYPE_BOOL:
      return is_list ? reflection.GetRepeatedBool(message, &field, index) : reflection.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_INT32:
      return is_list ? reflection.GetRepeatedInt32(message, &field, index) : reflection.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return is_list ? reflection.GetRepeatedInt64(message, &field, index) : reflection.GetInt64(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return (is_list ? reflection.GetRepeatedEnum(message, &field, index) : reflection.GetEnum(message, &field))
          ->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(
          is_list ? reflection.GetRepeatedMessage(message, &field, index) : reflection.GetMessage(message, &field),
          depth_left - 1);
    default:
      return "...";
  }
}

Json ToJson(const Message& message, int depth_left) {
  if (depth_left == 0) return "...";
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  Json json = Json::object();
  for (const FieldDescriptor* field : fields) {
    if (json.size() >= kFieldsMax) break;
    if (field->name() == "token") continue;
    if (!field->is_repeated()) {
      json.push_back({field->name(), ValueOf(message, *field, -1, depth_left)});
      continue;
    }
    const int count = reflection.FieldSize(message, field);
    Json first = Json::array();
    for (int i = 0; i < std::min(count, kElementsMax); ++i) first.push_back(ValueOf(message, *field, i, depth_left));
    Json value = std::move(first);
    if (count > kElementsMax) value = {{"count", count}, {"first", std::move(value)}};
    json.push_back({field->name(), std::move(value)});
  }
  return json;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::filesystem::path& folder, const Options& options) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::FailedPreconditionError(fmt::format("cannot create the folder of the audit log {}: {}",
                                                     folder.string(), std::generic_category().message(errno)));
  }
  try {
    auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>((folder / "audit.jsonl").string(),
                                                                       options.file_bytes_max, options.files_kept);
    auto logger = std::make_shared<spdlog::logger>("audit", std::move(sink));
    logger->set_pattern("%v");
    logger->flush_on(spdlog::level::info);
    return std::unique_ptr<AuditLog>(new AuditLog(std::move(logger)));
  } catch (const spdlog::spdlog_ex& error) {
    return absl::FailedPreconditionError(fmt::format("cannot open the audit log: {}", error.what()));
  }
}

void AuditLog::Write(const AuditEntry& entry) {
  Json line = {{"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", entry.time, absl::UTCTimeZone())},
               {"who", entry.who},
               {"token_id", entry.token_id},
               {"role", entry.role},
               {"peer", entry.peer},
               {"method", entry.method},
               {"result", absl::StatusCodeToString(entry.result.code())}};
  if (!entry.result.ok()) line["message"] = Cut(std::string(entry.result.message()), kResultBytesMax);
  if (entry.request != nullptr) line["request"] = ToJson(*entry.request, kRequestDepthMax);
  if (entry.response != nullptr && entry.result.ok()) line["response"] = ToJson(*entry.response, kResponseDepthMax);
  logger_->info("{}", line.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace normlab::service
