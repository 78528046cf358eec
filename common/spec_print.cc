// A spec as the YAML that would give it.
#include <algorithm>
#include <cctype>
#include <map>

#include "common/spec.h"
#include "common/spec_fields.h"
#include "yaml-cpp/yaml.h"

namespace normlab {
namespace {

using namespace spec_internal;  // NOLINT(build/namespaces): this file is its other half.

void EmitValue(const Value& value, YAML::Emitter* out) {
  const std::string text = ValueText(value);
  // A plain word that starts with a letter and is no keyword can only be read as text.
  const bool is_text = value.kind_case() == Value::kStringValue;
  const bool is_word = !text.empty() && std::isalpha(static_cast<unsigned char>(text.front())) && text != "true" &&
                       text != "false" && text != "null";
  if (is_text && !is_word) *out << YAML::DoubleQuoted;
  *out << text;
}

void EmitTextMap(const Message& message, const FieldDescriptor& field, YAML::Emitter* out) {
  const auto& reflection = *message.GetReflection();
  std::map<std::string, Value> entries;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    entries[entry.GetReflection()->GetString(entry, field.message_type()->map_key())] =
        GetScalar(entry, *field.message_type()->map_value());
  }
  *out << YAML::BeginMap;
  for (const auto& [key, value] : entries) {
    *out << YAML::Key << key << YAML::Value;
    EmitValue(value, out);
  }
  *out << YAML::EndMap;
}

void EmitMatrix(const v1::ExperimentSpec& spec, YAML::Emitter* out) {
  std::vector<std::string> names;
  for (const auto& [name, values] : spec.matrix()) names.push_back(name);
  std::sort(names.begin(), names.end());
  *out << YAML::BeginMap;
  for (const std::string& name : names) {
    *out << YAML::Key << name << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const Value& value : spec.matrix().at(name).values()) EmitValue(value, out);
    *out << YAML::EndSeq;
  }
  *out << YAML::EndMap;
}

void EmitMessage(const Message& message, YAML::Emitter* out) {
  const auto& reflection = *message.GetReflection();
  *out << YAML::BeginMap;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const bool is_set =
        field.is_repeated() ? reflection.FieldSize(message, &field) > 0 : reflection.HasField(message, &field);
    if (!is_set) continue;
    *out << YAML::Key << field.name() << YAML::Value;
    if (IsScalar(field)) {
      EmitValue(GetScalar(message, field), out);
    } else if (!field.is_map()) {
      EmitMessage(reflection.GetMessage(message, &field), out);
    } else if (field.message_type()->map_value()->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      EmitTextMap(message, field, out);
    } else {
      EmitMatrix(static_cast<const v1::ExperimentSpec&>(message), out);
    }
  }
  *out << YAML::EndMap;
}

}  // namespace

std::string ToYaml(const google::protobuf::Message& spec) {
  YAML::Emitter out;
  EmitMessage(spec, &out);
  return std::string(out.c_str()) + "\n";
}

}  // namespace normlab
