// What one call of `normlab` carries from its flags to the command that runs.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/client.h"
#include "cli/exit_code.h"
#include "common/grpc_channel.h"
#include "google/protobuf/message.h"
#include "normlab/v1/types.pb.h"

namespace normlab::cli {

struct Session {
  std::string server = "127.0.0.1:7070";
  ChannelSecurity security;
  std::string format = "table";          // Or "json".
  std::filesystem::path program_folder;  // Holds this program, and the daemons beside it.
  /// Set by the chosen command; run by main after parsing.
  std::function<absl::StatusOr<ExitCode>()> action;

  bool is_json() const { return format == "json"; }
  std::unique_ptr<Client> Connect() const;
  /// Says on stderr what the user may want to do next; nothing in JSON mode.
  void Hint(const std::string& text) const;
  /// Says on stderr what is going on; nothing in JSON mode.
  void Note(const std::string& text) const;
};

/// The user's login name; "unknown" if the system does not know it.
std::string UserName();

/// Proto JSON with the proto's field names and all fields, indented, or on one line.
std::string ToJson(const google::protobuf::Message& message, bool is_indented = true);

/// {"NAME": [message, ...]}
template <typename Message>
std::string ListToJson(const std::string& name, const std::vector<Message>& messages) {
  std::string json = "{\"" + name + "\": [";
  for (size_t i = 0; i < messages.size(); ++i) {
    json += (i == 0 ? "\n" : ",\n") + ToJson(messages[i], /*is_indented=*/false);
  }
  return json + "\n]}\n";
}

/// "k=v" words as a map; INVALID_ARGUMENT for a word without '=' or with an empty key.
absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& words);

/// Runs named by ids (any number of runs, or one experiment) and labels. INVALID_ARGUMENT if an id has no valid form or
/// an experiment is mixed with other ids; an empty selector if nothing is given.
absl::StatusOr<v1::RunSelector> ParseSelector(const std::vector<std::string>& ids,
                                              const std::vector<std::string>& labels);

/// "running" or "RUNNING"; INVALID_ARGUMENT with the nearest name otherwise.
absl::StatusOr<v1::RunState> ParseState(const std::string& text);

}  // namespace normlab::cli
