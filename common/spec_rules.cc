// Rules of single fields: defaults and violations.
#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>

#include "common/model_preset.h"
#include "common/spec.h"
#include "common/spec_fields.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "google/protobuf/unknown_field_set.h"

namespace normlab {
namespace spec_internal {
namespace {

std::optional<Value> DefaultOf(const FieldDescriptor& field) {
  const v1::FieldRule& rule = RuleOf(field);
  Value value;
  if (rule.has_text()) {
    value.set_string_value(rule.text());
  } else if (rule.has_number() && field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    value.set_bool_value(rule.number() != 0);
  } else if (rule.has_number()) {
    value.set_number_value(rule.number());
  } else {
    return std::nullopt;
  }
  return value;
}

void CheckMap(const Message& message, const FieldDescriptor& field, const std::string& path,
              std::vector<Violation>* violations) {
  const auto& reflection = *message.GetReflection();
  const int size = reflection.FieldSize(message, &field);
  if (auto problem = CheckMapSize(field, size)) violations->push_back({path, *problem});
  const FieldDescriptor& value_field = *field.message_type()->map_value();
  if (value_field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) return;  // The matrix has its own check.
  std::vector<Violation> found;
  for (int i = 0; i < size; ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const std::string key = entry.GetReflection()->GetString(entry, field.message_type()->map_key());
    const std::string value = entry.GetReflection()->GetString(entry, &value_field);
    if (auto problem = CheckMapEntry(key, value)) found.push_back({fmt::format("{}[{}]", path, key), *problem});
  }
  // A map has no order of its own; messages should have one.
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.field < b.field; });
  violations->insert(violations->end(), found.begin(), found.end());
}

void CheckMessage(const Message& message, const std::string& prefix, std::vector<Violation>* violations) {
  const auto& reflection = *message.GetReflection();
  if (const auto& unknown = reflection.GetUnknownFields(message); !unknown.empty()) {
    std::string where = prefix.empty() ? "spec" : prefix.substr(0, prefix.size() - 1);
    violations->push_back(
        {std::move(where), fmt::format("has {} field(s) that version {} does not know (number {}); "
                                       "use a client of the same version",
                                       unknown.field_count(), NORMLAB_VERSION, unknown.field(0).number())});
  }
  const Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated() ? reflection.FieldSize(message, &field) == 0 : !reflection.HasField(message, &field)) {
      continue;
    }
    const std::string path = prefix + field.name();
    if (field.is_map()) {
      CheckMap(message, field, path, violations);
    } else if (IsScalar(field)) {
      if (auto problem = CheckScalar(field, GetScalar(message, field))) violations->push_back({path, *problem});
    } else {
      CheckMessage(reflection.GetMessage(message, &field), path + ".", violations);
    }
  }
}

constexpr std::string_view kPresetFields[] = {"base.model.num_layers", "base.model.hidden", "base.model.num_heads",
                                              "base.model.ffn_hidden"};

bool IsPresetField(std::string_view path) {
  return std::find(std::begin(kPresetFields), std::end(kPresetFields), path) != std::end(kPresetFields);
}

/// Whether every run has a preset, be it the base's or the axis's.
bool HasPreset(const v1::ExperimentSpec& spec) {
  const auto axis = spec.matrix().find("model.preset");
  if (axis == spec.matrix().end()) return FindModelPreset(spec.base().model().preset()) != nullptr;
  const auto& values = axis->second.values();
  return std::all_of(values.begin(), values.end(),
                     [](const Value& value) { return FindModelPreset(value.string_value()) != nullptr; });
}

void CollectMissing(const Message& message, const std::string& prefix, const v1::ExperimentSpec& spec,
                    std::vector<std::string>* missing) {
  static constexpr std::string_view kBase = "base.";
  const auto& reflection = *message.GetReflection();
  const Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated()) continue;
    if (!IsScalar(field)) {
      // An absent message reads as its default instance, so that all that it must have is named at once.
      CollectMissing(reflection.GetMessage(message, &field), prefix + field.name() + ".", spec, missing);
    } else if (!reflection.HasField(message, &field) && RuleOf(field).required()) {
      const std::string path = prefix + field.name();
      const bool is_axis = path.starts_with(kBase) && spec.matrix().contains(path.substr(kBase.size()));
      const bool is_preset = IsPresetField(path) && HasPreset(spec);
      if (!is_axis && !is_preset) missing->push_back(path);
    }
  }
}

void SetDefaults(Message* spec) {
  const auto& reflection = *spec->GetReflection();
  const Descriptor& type = *spec->GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated()) continue;
    if (!IsScalar(field)) {
      SetDefaults(reflection.MutableMessage(spec, &field));
    } else if (const auto value = DefaultOf(field)) {
      SetScalar(spec, field, *value);
    }
  }
}

/// A message of the same type with every default. Made once for each type: the rules are read by reflection, which
/// every submit would pay for.
const Message& DefaultsOf(const Message& spec) {
  static std::mutex mutex;
  static std::map<const Descriptor*, std::unique_ptr<Message>> known;
  const std::scoped_lock lock(mutex);
  std::unique_ptr<Message>& defaults = known[spec.GetDescriptor()];
  if (defaults == nullptr) {
    defaults.reset(spec.New());
    SetDefaults(defaults.get());
  }
  return *defaults;
}

}  // namespace

std::vector<std::string> MissingFields(const v1::ExperimentSpec& spec) {
  std::vector<std::string> missing;
  CollectMissing(spec, "", spec, &missing);
  return missing;
}

std::string MissingText(const std::string& path) {
  return IsPresetField(path) ? "is missing; give it or model.preset" : "is missing; it has no default";
}

void FillRuleDefaults(Message* spec) {
  const std::unique_ptr<Message> filled(spec->New());
  filled->CopyFrom(DefaultsOf(*spec));
  filled->MergeFrom(*spec);
  spec->GetReflection()->Swap(filled.get(), spec);
}

void FillPreset(v1::ModelSpec* model) {
  const ModelPreset* preset = FindModelPreset(model->preset());
  if (preset == nullptr) return;
  if (!model->has_num_layers()) model->set_num_layers(preset->num_layers);
  if (!model->has_hidden()) model->set_hidden(static_cast<int32_t>(preset->hidden));
  if (!model->has_num_heads()) model->set_num_heads(static_cast<int32_t>(preset->num_heads));
  if (!model->has_ffn_hidden()) model->set_ffn_hidden(static_cast<int32_t>(preset->ffn_hidden));
}

}  // namespace spec_internal

using namespace spec_internal;  // NOLINT(build/namespaces): this file is its other half.

absl::Status ViolationsToStatus(const std::vector<Violation>& violations) {
  if (violations.empty()) return absl::OkStatus();
  std::vector<std::string> lines;
  for (const Violation& violation : violations) {
    lines.push_back(fmt::format("{}: {}", violation.field, violation.message));
  }
  return absl::InvalidArgumentError(fmt::format("{}", fmt::join(lines, "\n")));
}

void FillDefaults(google::protobuf::Message* spec) {
  FillRuleDefaults(spec);
  // Not that of an experiment's base, whose preset an axis may still change.
  if (spec->GetDescriptor() == v1::RunSpec::descriptor()) FillPreset(static_cast<v1::RunSpec*>(spec)->mutable_model());
}

std::vector<Violation> ValidateExperiment(const v1::ExperimentSpec& spec) {
  std::vector<Violation> violations;
  CheckMessage(spec, "", &violations);
  for (const std::string& path : MissingFields(spec)) {
    violations.push_back({path, MissingText(path)});
  }
  // Sorted copies of the names: a protobuf map iterates in a random order.
  std::vector<std::string> axes;
  for (const auto& [name, values] : spec.matrix()) axes.push_back(name);
  std::sort(axes.begin(), axes.end());
  for (const std::string& name : axes) {
    for (const AxisProblem& problem : CheckAxis(name, spec.matrix().at(name))) {
      std::string field = fmt::format("matrix[{}]", name);
      if (problem.index >= 0) field += fmt::format("[{}]", problem.index);
      violations.push_back({std::move(field), problem.message});
    }
  }
  return violations;
}

std::vector<FieldInfo> RunSpecFields() {
  std::vector<FieldInfo> fields;
  VisitLeaves(*v1::RunSpec::descriptor(), "", [&](const std::string& path, const FieldDescriptor& field) {
    const v1::FieldRule& rule = RuleOf(field);
    std::vector<std::string> words;
    if (rule.required()) words.push_back("required");
    if (const auto value = DefaultOf(field)) words.push_back(fmt::format("default {}", ValueText(*value)));
    if (rule.one_of_size() > 0) words.push_back(fmt::format("one of {}", fmt::join(rule.one_of(), ", ")));
    if (rule.has_above()) words.push_back(fmt::format("above {}", rule.above()));
    if (rule.has_min()) words.push_back(fmt::format("at least {}", rule.min()));
    if (rule.has_max()) words.push_back(fmt::format("at most {}", rule.max()));
    if (rule.relative_path()) words.push_back("a relative path");
    fields.push_back({path, TypeName(field), fmt::format("{}", fmt::join(words, ", "))});
  });
  return fields;
}

}  // namespace normlab
