#include "cli/session.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/ascii.h"
#include "cli/terminal.h"
#include "common/ids.h"
#include "common/status.h"
#include "common/suggest.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "google/protobuf/util/json_util.h"

namespace normlab::cli {

std::unique_ptr<Client> Session::Connect() const {
  return std::make_unique<Client>(
      server, [this](const std::string& text) { Note(text); }, security);
}

void Session::Note(const std::string& text) const {
  if (!is_json()) fmt::print(stderr, "{}\n", text);
}

void Session::Hint(const std::string& text) const {
  std::fflush(stdout);  // The hint belongs below what was printed, also where both go to one file.
  if (!is_json()) fmt::print(stderr, "{}\n", Paint(text, Style::kDim, WantsColor(STDERR_FILENO)));
}

std::string UserName() {
  const passwd* user = getpwuid(geteuid());
  return user != nullptr ? user->pw_name : "unknown";
}

std::string ToJson(const google::protobuf::Message& message, bool is_indented) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = is_indented;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";
}

absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& words) {
  std::map<std::string, std::string> pairs;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(fmt::format("--label {}: must have the form key=value", word));
    }
    pairs[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return pairs;
}

absl::StatusOr<v1::RunSelector> ParseSelector(const std::vector<std::string>& ids,
                                              const std::vector<std::string>& labels) {
  v1::RunSelector selector;
  for (const std::string& id : ids) {
    if (RunId::Parse(id)) {
      selector.add_run_ids(id);
    } else if (!ExperimentId::Parse(id)) {
      return absl::InvalidArgumentError(
          fmt::format("'{}' is neither a run (exp-0001.03) nor an experiment (exp-0001)", id));
    } else if (ids.size() > 1) {
      return absl::InvalidArgumentError(
          fmt::format("give either one experiment or runs, not {} together with {} other "
                      "id(s)",
                      id, ids.size() - 1));
    } else {
      selector.set_experiment_id(id);
    }
  }
  NORMLAB_ASSIGN_OR_RETURN(const auto pairs, ParsePairs(labels));
  selector.mutable_labels()->insert(pairs.begin(), pairs.end());
  return selector;
}

absl::StatusOr<v1::RunState> ParseState(const std::string& text) {
  v1::RunState state;
  const std::string name = absl::AsciiStrToUpper(text);
  if (v1::RunState_Parse(name, &state) && state != v1::RUN_STATE_UNSPECIFIED) return state;
  std::vector<std::string> names;
  for (int i = v1::RUN_STATE_UNSPECIFIED + 1; i < v1::RunState_ARRAYSIZE; ++i) {
    names.push_back(absl::AsciiStrToLower(v1::RunState_Name(i)));
  }
  return absl::InvalidArgumentError(fmt::format("--state {}: must be one of {}{}", text, fmt::join(names, ", "),
                                                DidYouMean(absl::AsciiStrToLower(text), names)));
}

}  // namespace normlab::cli
