// How the files behind spec.h look at a spec: fields by path, scalars as protobuf values, rules as questions. Internal
// to common/.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/spec.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/struct.pb.h"
#include "normlab/v1/rules.pb.h"

namespace normlab::spec_internal {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Value;

/// The rule beside `field`; an empty one if there is none.
const v1::FieldRule& RuleOf(const FieldDescriptor& field);

/// A single number, text or boolean: what can have a default and be an axis.
bool IsScalar(const FieldDescriptor& field);

/// "integer", "number", "text" or "true or false".
std::string TypeName(const FieldDescriptor& field);

/// Names of the fields of one message, for suggestions.
std::vector<std::string> FieldNames(const Descriptor& type);

/// Calls `visit` with path and field of every scalar leaf below `type`, in order of declaration.
void VisitLeaves(const Descriptor& type, const std::string& prefix,
                 const std::function<void(const std::string& path, const FieldDescriptor& field)>& visit);

/// Paths of all scalar leaves of RunSpec: what an axis may be.
const std::vector<std::string>& AxisNames();

/// The leaf that an axis names, or null.
const FieldDescriptor* FindAxisField(std::string_view path);

/// What is wrong with `value` for `field`, to be put after the field's name ("must be at least 1, not 0"); nothing if
/// it fits type and rule.
std::optional<std::string> CheckScalar(const FieldDescriptor& field, const Value& value);

/// What is wrong with one entry of a map from text to text, or with the number of its entries.
std::optional<std::string> CheckMapEntry(const std::string& key, const std::string& value);
std::optional<std::string> CheckMapSize(const FieldDescriptor& field, int size);

/// Sets a scalar to a value for which CheckScalar finds nothing.
void SetScalar(Message* message, const FieldDescriptor& field, const Value& value);
/// Sets the leaf at `path` below `message`; the path must exist.
void SetLeaf(Message* message, std::string_view path, const Value& value);
Value GetScalar(const Message& message, const FieldDescriptor& field);

/// "lns", "0.001", "7", "true": as in a table or a label.
std::string ValueText(const Value& value);

/// What is wrong with the values of one axis, by index; the index is -1 for the axis as a whole.
struct AxisProblem {
  int index;
  std::string message;
};
std::vector<AxisProblem> CheckAxis(std::string_view name, const google::protobuf::ListValue& values);

/// Paths (below ExperimentSpec) of required fields that neither the spec nor an axis gives.
std::vector<std::string> MissingFields(const v1::ExperimentSpec& spec);

/// What to say of such a field, to be put after its path.
std::string MissingText(const std::string& path);

/// Sets each field whose rule has a default and that has no value, in all nested messages.
void FillRuleDefaults(Message* spec);

/// Sets the shape of a model from its preset where the model does not give it.
void FillPreset(v1::ModelSpec* model);

/// ExpandMatrix with the broken rules between fields as violations; their fields are paths below RunSpec. `runs` is
/// complete only if the status is OK and `violations` stays empty.
absl::Status ExpandInto(const v1::ExperimentSpec& spec, std::vector<ExpandedRun>* runs,
                        std::vector<Violation>* violations);

}  // namespace normlab::spec_internal
