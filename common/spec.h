// Everything pure about specs, shared by the command line and the coordinator.
//
// What a field may hold is said once, by the (normlab.v1.rule) option beside the field in the proto; this file reads it
// from there. No function here does I/O or keeps state; all may be called from any thread.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message.h"
#include "normlab/v1/experiment.pb.h"
#include "normlab/v1/trainer_event.pb.h"

namespace normlab {

/// Most runs of one experiment.
inline constexpr int kRunsMax = 10'000;
/// Largest YAML file in bytes.
inline constexpr size_t kYamlBytesMax = 1 << 20;

/// One thing that is wrong with a spec.
struct Violation {
  std::string field;    // Path in ExperimentSpec: "base.model.hidden", "matrix[norm.scheme][2]".
  std::string message;  // What is wrong, with numbers, and what to do.
  friend bool operator==(const Violation&, const Violation&) = default;
};

/// INVALID_ARGUMENT with one line "field: message" per violation; OK if there is none.
absl::Status ViolationsToStatus(const std::vector<Violation>& violations);

/// One point of the matrix.
struct ExpandedRun {
  v1::RunSpec spec;                         // Complete: every field has a value.
  std::map<std::string, std::string> axes;  // Axis -> its value here, as text.
};

/// Reads a YAML experiment strictly; keys are the proto's field names. INVALID_ARGUMENT holds one line
/// "filename:line:column: message" for each problem (all of them, not only the first), 1-based, in order of position.
/// Checks all that ValidateExperiment and ExpandMatrix check. Defaults are not filled in.
absl::StatusOr<v1::ExperimentSpec> ParseExperimentYaml(const std::string& text, const std::string& filename);

/// Sets each field that has a default and no value, in all nested messages; in a RunSpec also the shape that
/// model.preset gives.
void FillDefaults(google::protobuf::Message* spec);

/// All violations of the fields' own rules, of required fields (an axis counts as giving its field) and of the matrix's
/// axes and values. Empty if there is none. Rules between fields are checked by ExpandMatrix.
std::vector<Violation> ValidateExperiment(const v1::ExperimentSpec& spec);

/// The runs of a spec for which ValidateExperiment finds nothing: the product of all axes in the order of their names,
/// the last one fastest; defaults filled in. RESOURCE_EXHAUSTED past kRunsMax; INVALID_ARGUMENT if a run breaks a rule
/// between fields, naming the run's values. At most about 10 microseconds per run.
absl::StatusOr<std::vector<ExpandedRun>> ExpandMatrix(const v1::ExperimentSpec& spec);

/// The file for `normlab-train --spec`: proto JSON with the proto's field names, every field present. As the proto JSON
/// mapping says, 64-bit integers are strings ("steps": "1000").
std::string ToTrainerJson(const v1::TrainerSpec& spec);

/// The YAML of an ExperimentSpec or RunSpec (or a part of one); what ParseExperimentYaml reads as the same spec. Fields
/// that are not set are left out.
std::string ToYaml(const google::protobuf::Message& spec);

/// SHA-256 in hex over a deterministic serialization: equal messages (maps in any order) give equal digests.
std::string SpecDigest(const google::protobuf::Message& spec);

/// A field that a user may set, for documentation and completion.
struct FieldInfo {
  std::string path;  // "model.num_layers", below RunSpec.
  std::string type;  // "integer", "number", "text", "true or false".
  std::string rule;  // "required, 1 to 1024", "default 0.02, above 0, at most 10".
};

/// Every scalar leaf of RunSpec, in order of declaration; exactly what may be an axis.
std::vector<FieldInfo> RunSpecFields();

}  // namespace normlab
