#pragma once

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/strings/escaping.h>
#include <fmt/format.h>

#include <string>
#include <string_view>

#include "common/status.h"
#include "coordinator/store/backend.h"

namespace normlab::store {

/// DATA_LOSS that names the backend, the table and the key.
inline absl::Status Unreadable(const Backend& backend, Table table, std::string_view key, const std::string& why) {
  return absl::DataLossError(fmt::format("{}: the record {} of table {} {}; restore the folder from a backup",
                                         backend.Describe(), absl::BytesToHexString({key.data(), key.size()}),
                                         kTableNames[static_cast<size_t>(table)], why));
}

/// Parses every value of a table in [from, to), until `visit` returns false; DATA_LOSS for one that cannot be parsed.
template <typename Message>
absl::Status ScanMessages(Backend& backend, Table table, const std::string& from, const std::string& to,
                          absl::FunctionRef<bool(std::string_view key, const Message& message)> visit) {
  absl::Status parsed;
  NORMLAB_RETURN_IF_ERROR(backend.Scan(table, from, to, [&](std::string_view key, std::string_view value) {
    Message message;
    if (!message.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      parsed = Unreadable(backend, table, key, fmt::format("is no {}", message.GetTypeName()));
      return false;
    }
    return visit(key, message);
  }));
  return parsed;
}

}  // namespace normlab::store
