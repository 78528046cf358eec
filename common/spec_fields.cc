#include "common/spec_fields.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_split.h"
#include "common/suggest.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::spec_internal {
namespace {

constexpr int kTextBytesMax = 256;

bool IsInteger(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 || field.cpp_type() == FieldDescriptor::CPPTYPE_INT64;
}

/// "text 'abc'", "number 1.5": for messages about a wrong type.
std::string Describe(const Value& value) {
  switch (value.kind_case()) {
    case Value::kStringValue:
      return fmt::format("text '{}'", value.string_value());
    case Value::kNumberValue:
      return fmt::format("number {}", ValueText(value));
    case Value::kBoolValue:
      return ValueText(value);
    case Value::kListValue:
      return "a list";
    case Value::kStructValue:
      return "a map";
    default:
      return "nothing";
  }
}

std::optional<std::string> CheckNumber(const FieldDescriptor& field, const Value& value) {
  const double number = value.number_value();
  if (!std::isfinite(number)) return fmt::format("must be a finite number, not {}", number);
  if (IsInteger(field) && number != std::floor(number)) {
    return fmt::format("must be a whole number, not {}", ValueText(value));
  }
  const v1::FieldRule& rule = RuleOf(field);
  if (rule.has_above() && !(number > rule.above())) {
    return fmt::format("must be above {}, not {}", rule.above(), ValueText(value));
  }
  if (rule.has_min() && number < rule.min()) {
    return fmt::format("must be at least {}, not {}", rule.min(), ValueText(value));
  }
  if (rule.has_max() && number > rule.max()) {
    return fmt::format("must be at most {}, not {}", rule.max(), ValueText(value));
  }
  return std::nullopt;
}

std::optional<std::string> CheckRelativePath(const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  const bool leaves = path.starts_with('/') || std::find(parts.begin(), parts.end(), "..") != parts.end();
  if (!leaves) return std::nullopt;
  return fmt::format("must be a relative path without '..', not '{}'", path);
}

std::optional<std::string> CheckCharacters(const std::string& text) {
  const auto is_control = [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; };
  const auto bad = std::find_if(text.begin(), text.end(), is_control);
  if (bad == text.end()) return std::nullopt;
  return fmt::format("must not have control characters (byte {} is 0x{:02x})", bad - text.begin(),
                     static_cast<unsigned char>(*bad));
}

std::optional<std::string> CheckText(const FieldDescriptor& field, const std::string& text) {
  const v1::FieldRule& rule = RuleOf(field);
  const size_t size_max = rule.has_size_max() ? rule.size_max() : kTextBytesMax;
  if (text.size() > size_max) return fmt::format("must have at most {} bytes, not {}", size_max, text.size());
  if (rule.one_of_size() > 0 && std::find(rule.one_of().begin(), rule.one_of().end(), text) == rule.one_of().end()) {
    const std::vector<std::string> allowed(rule.one_of().begin(), rule.one_of().end());
    return fmt::format("must be {}{}, not '{}'{}", allowed.size() > 1 ? "one of " : "", fmt::join(allowed, ", "), text,
                       DidYouMean(text, allowed));
  }
  if (rule.required() && text.empty()) return "must not be empty";
  if (rule.relative_path()) {
    if (auto problem = CheckRelativePath(text)) return problem;
  }
  return CheckCharacters(text);
}

}  // namespace

const v1::FieldRule& RuleOf(const FieldDescriptor& field) { return field.options().GetExtension(v1::rule); }

bool IsScalar(const FieldDescriptor& field) {
  return !field.is_repeated() && field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE;
}

std::string TypeName(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    default:
      return IsInteger(field) ? "integer" : "number";
  }
}

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

void VisitLeaves(const Descriptor& type, const std::string& prefix,
                 const std::function<void(const std::string&, const FieldDescriptor&)>& visit) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (IsScalar(field)) {
      visit(prefix + field.name(), field);
    } else if (!field.is_repeated()) {
      VisitLeaves(*field.message_type(), prefix + field.name() + ".", visit);
    }
  }
}

const std::vector<std::string>& AxisNames() {
  static const auto* const names = [] {
    auto* all = new std::vector<std::string>;
    VisitLeaves(*v1::RunSpec::descriptor(), "", [all](const std::string& path, const auto&) { all->push_back(path); });
    return all;
  }();
  return *names;
}

const FieldDescriptor* FindAxisField(std::string_view path) {
  const Descriptor* type = v1::RunSpec::descriptor();
  while (type != nullptr) {
    const size_t dot = path.find('.');
    const FieldDescriptor* field = type->FindFieldByName(std::string(path.substr(0, dot)));
    if (field == nullptr || field->is_repeated()) return nullptr;
    if (dot == std::string_view::npos) return IsScalar(*field) ? field : nullptr;
    path.remove_prefix(dot + 1);
    type = field->message_type();
  }
  return nullptr;
}

std::optional<std::string> CheckScalar(const FieldDescriptor& field, const Value& value) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      if (value.kind_case() == Value::kBoolValue) return std::nullopt;
      return fmt::format("must be true or false, not {}", Describe(value));
    case FieldDescriptor::CPPTYPE_STRING:
      if (value.kind_case() == Value::kStringValue) return CheckText(field, value.string_value());
      return fmt::format("must be text, not {} (put it in quotes if it is meant as text)", Describe(value));
    default:
      if (value.kind_case() == Value::kNumberValue) return CheckNumber(field, value);
      return fmt::format("must be a {}number, not {}", IsInteger(field) ? "whole " : "", Describe(value));
  }
}

std::optional<std::string> CheckMapEntry(const std::string& key, const std::string& value) {
  if (key.empty()) return "must not have an empty key";
  for (const std::string& text : {key, value}) {
    if (text.size() > kTextBytesMax) {
      return fmt::format("must have at most {} bytes, not {}", kTextBytesMax, text.size());
    }
    if (auto problem = CheckCharacters(text)) return problem;
  }
  return std::nullopt;
}

std::optional<std::string> CheckMapSize(const FieldDescriptor& field, int size) {
  const int size_max = RuleOf(field).has_size_max() ? RuleOf(field).size_max() : kTextBytesMax;
  if (size <= size_max) return std::nullopt;
  return fmt::format("must have at most {} entries, not {}", size_max, size);
}

void SetScalar(Message* message, const FieldDescriptor& field, const Value& value) {
  const auto& reflection = *message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(message, &field, value.bool_value());
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(message, &field, value.string_value());
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(message, &field, static_cast<int32_t>(value.number_value()));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(message, &field, static_cast<int64_t>(value.number_value()));
    default:
      return reflection.SetDouble(message, &field, value.number_value());
  }
}

void SetLeaf(Message* message, std::string_view path, const Value& value) {
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    const auto* field = message->GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
    message = message->GetReflection()->MutableMessage(message, field);
    path.remove_prefix(dot + 1);
  }
  SetScalar(message, *message->GetDescriptor()->FindFieldByName(std::string(path)), value);
}

Value GetScalar(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  Value value;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      value.set_bool_value(reflection.GetBool(message, &field));
      break;
    case FieldDescriptor::CPPTYPE_STRING:
      value.set_string_value(reflection.GetString(message, &field));
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      value.set_number_value(reflection.GetInt32(message, &field));
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      value.set_number_value(static_cast<double>(reflection.GetInt64(message, &field)));
      break;
    default:
      value.set_number_value(reflection.GetDouble(message, &field));
  }
  return value;
}

std::string ValueText(const Value& value) {
  switch (value.kind_case()) {
    case Value::kStringValue:
      return value.string_value();
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kNumberValue: {
      const double number = value.number_value();
      // Whole numbers up to 2^53 are exact; "{}" alone would print 1e6 as 1e+06.
      if (number == std::floor(number) && std::abs(number) <= 9007199254740992.0) {
        return fmt::format("{}", static_cast<int64_t>(number));
      }
      return fmt::format("{}", number);
    }
    default:
      return "null";
  }
}

std::vector<AxisProblem> CheckAxis(std::string_view name, const google::protobuf::ListValue& values) {
  const FieldDescriptor* field = FindAxisField(name);
  if (field == nullptr) {
    return {
        {-1, fmt::format("names no field of a run; an axis is a leaf such as norm.scheme, model.num_layers or seed{}",
                         DidYouMean(name, AxisNames()))}};
  }
  if (values.values_size() == 0) return {{-1, "has no values; give at least one"}};
  std::vector<AxisProblem> problems;
  std::set<std::string> seen;
  for (int i = 0; i < values.values_size(); ++i) {
    const Value& value = values.values(i);
    if (auto problem = CheckScalar(*field, value)) {
      problems.push_back({i, *std::move(problem)});
    } else if (!seen.insert(ValueText(value)).second) {
      problems.push_back({i, fmt::format("has the value {} twice; two runs would be the same", ValueText(value))});
    }
  }
  return problems;
}

}  // namespace normlab::spec_internal
