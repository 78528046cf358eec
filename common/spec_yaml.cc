// YAML -> ExperimentSpec, driven by the proto's descriptors.
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <tuple>

#include "common/spec.h"
#include "common/spec_fields.h"
#include "common/suggest.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/yaml.h"

namespace normlab {
namespace {

using namespace spec_internal;  // NOLINT(build/namespaces): this file is its other half.

/// 1-based place in the file.
struct Position {
  int line = 1;
  int column = 1;
};

Position PositionOf(const YAML::Mark& mark) {
  return mark.is_null() ? Position{} : Position{mark.line + 1, mark.column + 1};
}

/// A plain scalar as YAML's core schema reads it: null, true, false, a decimal number, else text. Quoted is always
/// text.
Value ScalarValue(const YAML::Node& node) {
  Value value;
  const std::string& text = node.Scalar();
  const bool is_quoted = node.Tag() == "!";
  if (is_quoted) {
    value.set_string_value(text);
  } else if (text == "true" || text == "false") {
    value.set_bool_value(text == "true");
  } else if (text.empty() || text == "~" || text == "null") {
    value.set_null_value(google::protobuf::NULL_VALUE);
  } else {
    double number = 0;
    const char* begin = text.data() + (text.front() == '+' ? 1 : 0);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(begin, end, number);
    // from_chars also takes "nan" and "inf", which are words in YAML.
    const bool is_number = stop == end && error == std::errc() && text.find_first_of("0123456789") != std::string::npos;
    if (is_number) {
      value.set_number_value(number);
    } else {
      value.set_string_value(text);
    }
  }
  return value;
}

class Walker {
 public:
  explicit Walker(const std::string& filename) : filename_(filename) {}

  void Add(Position at, std::string message) { problems_.push_back({at, std::move(message)}); }
  bool ok() const { return problems_.empty(); }

  /// The place of the key that gave `path`, or of the nearest key around it.
  Position Find(std::string path) const {
    while (true) {
      if (const auto found = positions_.find(path); found != positions_.end()) return found->second;
      const size_t dot = path.rfind('.');
      if (dot == std::string::npos) return {};
      path.resize(dot);
    }
  }

  absl::Status ToStatus() {
    std::stable_sort(problems_.begin(), problems_.end(), [](const Problem& a, const Problem& b) {
      return std::tie(a.at.line, a.at.column) < std::tie(b.at.line, b.at.column);
    });
    std::vector<std::string> lines;
    for (const Problem& problem : problems_) {
      lines.push_back(fmt::format("{}:{}:{}: {}", filename_, problem.at.line, problem.at.column, problem.message));
    }
    return absl::InvalidArgumentError(fmt::format("{}", fmt::join(lines, "\n")));
  }

  /// `path` ends in a dot unless it is empty; `what` names the map in messages.
  void WalkMessage(const YAML::Node& node, Message* message, const std::string& path, const std::string& what) {
    if (!ExpectMap(node, what)) return;
    const Descriptor& type = *message->GetDescriptor();
    VisitKeys(node, path, [&](const YAML::Node& key, const YAML::Node& value) {
      const FieldDescriptor* field = type.FindFieldByName(key.Scalar());
      if (field == nullptr) {
        const std::vector<std::string> names = FieldNames(type);
        const std::string guess = DidYouMean(key.Scalar(), names);
        Add(PositionOf(key.Mark()),
            fmt::format("unknown key '{}' in {}{}", key.Scalar(), what,
                        guess.empty() ? fmt::format("; it may have {}", fmt::join(names, ", ")) : guess));
        return;
      }
      WalkField(value, message, *field, path + field->name());
    });
  }

 private:
  struct Problem {
    Position at;
    std::string message;
  };

  bool ExpectMap(const YAML::Node& node, const std::string& what) {
    if (node.IsMap()) return true;
    Add(PositionOf(node.Mark()), fmt::format("{} must be a map of keys and values, not {}", what, KindOf(node)));
    return false;
  }

  static std::string KindOf(const YAML::Node& node) {
    if (node.IsSequence()) return "a list";
    if (node.IsMap()) return "a map";
    if (node.IsNull() || node.Scalar().empty()) return "nothing";
    return fmt::format("'{}'", node.Scalar());
  }

  /// Calls `visit` for each key once, and complains about keys that are no text or come twice.
  template <typename Visit>
  void VisitKeys(const YAML::Node& node, const std::string& path, Visit visit) {
    std::map<std::string, Position> seen;
    for (const auto& entry : node) {
      const YAML::Node key = entry.first, value = entry.second;
      if (!key.IsScalar()) {
        Add(PositionOf(key.Mark()), fmt::format("a key must be a word, not {}", KindOf(key)));
        continue;
      }
      const Position at = PositionOf(key.Mark());
      const auto [first, is_new] = seen.emplace(key.Scalar(), at);
      if (!is_new) {
        Add(at, fmt::format("duplicate key '{}'; it is already in line {}", key.Scalar(), first->second.line));
        continue;
      }
      positions_[path + key.Scalar()] = at;
      visit(key, value);
    }
  }

  void WalkField(const YAML::Node& node, Message* message, const FieldDescriptor& field, const std::string& path) {
    if (field.is_map()) {
      const bool is_text = field.message_type()->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
      is_text ? WalkTextMap(node, message, field, path) : WalkMatrix(node, message, field);
    } else if (IsScalar(field)) {
      if (!node.IsScalar() && !node.IsNull()) {
        Add(PositionOf(node.Mark()),
            fmt::format("{} must be {}, not {}", path, TypePhrase(field), KindOf(node)) + MatrixHint(node, path));
        return;
      }
      const Value value = node.IsNull() ? Value() : ScalarValue(node);
      if (auto problem = CheckScalar(field, value)) {
        Add(PositionOf(node.Mark()), fmt::format("{} {}", path, *problem));
      } else {
        SetScalar(message, field, value);
      }
    } else {
      WalkMessage(node, message->GetReflection()->MutableMessage(message, &field), path + ".", path);
    }
  }

  static std::string TypePhrase(const FieldDescriptor& field) {
    const std::string name = TypeName(field);
    return name == "integer" ? "a whole number" : name == "number" ? "a number" : name;
  }

  static std::string MatrixHint(const YAML::Node& node, const std::string& path) {
    static constexpr std::string_view kBase = "base.";
    if (!node.IsSequence() || !path.starts_with(kBase)) return "";
    return fmt::format("; to try several values write it under matrix as '{}'", path.substr(kBase.size()));
  }

  void WalkTextMap(const YAML::Node& node, Message* message, const FieldDescriptor& field, const std::string& path) {
    if (!ExpectMap(node, path)) return;
    if (auto problem = CheckMapSize(field, static_cast<int>(node.size()))) {
      Add(PositionOf(node.Mark()), fmt::format("{} {}", path, *problem));
      return;
    }
    VisitKeys(node, path + ".", [&](const YAML::Node& key, const YAML::Node& value) {
      const std::string entry_path = fmt::format("{}.{}", path, key.Scalar());
      const Position at = PositionOf(value.Mark());
      const Value text = value.IsScalar() ? ScalarValue(value) : Value();
      if (text.kind_case() != Value::kStringValue) {
        Add(at,
            fmt::format("{} must be text, not {}; put it in quotes if it is meant as text", entry_path, KindOf(value)));
      } else if (auto problem = CheckMapEntry(key.Scalar(), text.string_value())) {
        Add(at, fmt::format("{} {}", entry_path, *problem));
      } else {
        Message* entry = message->GetReflection()->AddMessage(message, &field);
        entry->GetReflection()->SetString(entry, field.message_type()->map_key(), key.Scalar());
        entry->GetReflection()->SetString(entry, field.message_type()->map_value(), text.string_value());
      }
    });
  }

  void WalkMatrix(const YAML::Node& node, Message* message, const FieldDescriptor& field) {
    if (!ExpectMap(node, "matrix")) return;
    if (auto problem = CheckMapSize(field, static_cast<int>(node.size()))) {
      Add(PositionOf(node.Mark()), fmt::format("matrix {}", *problem));
      return;
    }
    auto& matrix = *static_cast<v1::ExperimentSpec*>(message)->mutable_matrix();
    VisitKeys(node, "matrix.",
              [&](const YAML::Node& key, const YAML::Node& list) { WalkAxis(key, list, &matrix[key.Scalar()]); });
  }

  void WalkAxis(const YAML::Node& key, const YAML::Node& list, google::protobuf::ListValue* values) {
    if (FindAxisField(key.Scalar()) != nullptr && !list.IsSequence()) {
      Add(PositionOf(list.Mark()),
          fmt::format("matrix axis '{}' must be a list of values, not {}", key.Scalar(), KindOf(list)));
      return;
    }
    if (list.IsSequence()) {
      if (list.size() > kRunsMax) {
        Add(PositionOf(key.Mark()), fmt::format("matrix axis '{}' has {} values, at most {} runs are allowed",
                                                key.Scalar(), list.size(), kRunsMax));
        return;
      }
      for (const YAML::Node& item : list) *values->add_values() = ItemValue(item);
    }
    for (const AxisProblem& problem : CheckAxis(key.Scalar(), *values)) {
      const YAML::Mark mark = problem.index < 0 ? key.Mark() : list[problem.index].Mark();
      Add(PositionOf(mark), fmt::format("matrix axis '{}' {}", key.Scalar(), problem.message));
    }
  }

  /// A list or map inside an axis keeps its kind only, so that the check can say what it found.
  static Value ItemValue(const YAML::Node& node) {
    if (node.IsScalar()) return ScalarValue(node);
    Value value;
    if (node.IsSequence()) value.mutable_list_value();
    if (node.IsMap()) value.mutable_struct_value();
    return value;
  }

  const std::string filename_;
  std::vector<Problem> problems_;
  std::map<std::string, Position> positions_;  // Of keys, by path below ExperimentSpec; axes below "matrix.".
};

/// Where `text` stops being UTF-8; nullopt if it is all. The YAML library passes such bytes on, and no message of the
/// contract could carry them.
std::optional<Position> FirstInvalidUtf8(const std::string& text) {
  Position at;
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
    const unsigned first = byte(0);
    const size_t length = first < 0x80   ? 1
                          : first < 0xc2 ? 0
                          : first < 0xe0 ? 2
                          : first < 0xf0 ? 3
                          : first < 0xf5 ? 4
                                         : 0;
    bool is_valid = length > 0;
    for (size_t k = 1; k < length; ++k) is_valid &= (byte(k) & 0xc0) == 0x80;
    // Overlong forms, surrogates and what lies above U+10FFFF show in the second byte.
    is_valid &= !(first == 0xe0 && byte(1) < 0xa0) && !(first == 0xed && byte(1) > 0x9f) &&
                !(first == 0xf0 && byte(1) < 0x90) && !(first == 0xf4 && byte(1) > 0x8f);
    if (!is_valid) return at;
    at = first == '\n' ? Position{at.line + 1, 1} : Position{at.line, at.column + 1};
    i += length;
  }
  return std::nullopt;
}

/// Sees documents and keeps nothing of them.
class IgnoreEvents final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

/// Whether there is more than one document. Not LoadAll: at a text like ", a" yaml-cpp 0.7 finds documents without end,
/// until memory is used up.
bool HasSeveralDocuments(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  IgnoreEvents ignore;
  return parser.HandleNextDocument(ignore) && parser.HandleNextDocument(ignore);
}

/// The one document of `text`, or a problem in `walker`.
std::optional<YAML::Node> LoadYaml(const std::string& text, Walker* walker) {
  if (text.size() > kYamlBytesMax) {
    walker->Add({}, fmt::format("the file has {} bytes, at most {} are allowed", text.size(), kYamlBytesMax));
    return std::nullopt;
  }
  if (const auto invalid = FirstInvalidUtf8(text)) {
    walker->Add(*invalid, "the file is not UTF-8 from here on; save it as UTF-8");
    return std::nullopt;
  }
  try {
    if (HasSeveralDocuments(text)) {
      walker->Add({}, "the file has several YAML documents, it must have one (or it begins with a stray sign)");
      return std::nullopt;
    }
    YAML::Node document = YAML::Load(text);
    if (!document.IsNull()) return document;
    walker->Add({}, "the file has no experiment; it needs at least name, base.model, base.data and base.train");
  } catch (const YAML::Exception& error) {  // The library throws; nothing of ours does.
    walker->Add(PositionOf(error.mark), fmt::format("not valid YAML: {}", error.msg));
  }
  return std::nullopt;
}

void CheckMissing(const v1::ExperimentSpec& spec, Walker* walker) {
  for (const std::string& path : MissingFields(spec)) {
    walker->Add(walker->Find(path), fmt::format("{} {}", path, MissingText(path)));
  }
}

/// Rules between fields; placed at the axis if there is one for the field, else at the field in base.
void CheckRuns(const v1::ExperimentSpec& spec, Walker* walker) {
  std::vector<ExpandedRun> runs;
  std::vector<Violation> violations;
  if (const absl::Status status = ExpandInto(spec, &runs, &violations); !status.ok()) {
    walker->Add(walker->Find("matrix"), std::string(status.message()));
  }
  for (const Violation& violation : violations) {
    const bool is_axis = spec.matrix().contains(violation.field);
    walker->Add(walker->Find((is_axis ? "matrix." : "base.") + violation.field),
                fmt::format("base.{} {}", violation.field, violation.message));
  }
}

}  // namespace

absl::StatusOr<v1::ExperimentSpec> ParseExperimentYaml(const std::string& text, const std::string& filename) {
  Walker walker(filename);
  v1::ExperimentSpec spec;
  const std::optional<YAML::Node> root = LoadYaml(text, &walker);
  if (!root) return walker.ToStatus();
  walker.WalkMessage(*root, &spec, "", "the experiment");
  // A field with a bad value is no missing field, so these wait until the file itself is sound.
  if (walker.ok()) CheckMissing(spec, &walker);
  if (walker.ok()) CheckRuns(spec, &walker);
  if (!walker.ok()) return walker.ToStatus();
  return spec;
}

}  // namespace normlab
