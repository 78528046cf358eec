#include "cli/analysis_file.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/numbers.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

using nlohmann::json;
using v1::LayerAnalysis;

constexpr char kFormat[] = "normlab-analysis-v1";
constexpr std::string_view kAttemptMark = ".attempt-";

/// A column of analysis.json, and where its number goes.
struct Column {
  const char* name;
  void (LayerAnalysis::*set)(double);
};
constexpr Column kColumns[] = {
    {"variance_mean", &LayerAnalysis::set_variance_mean},
    {"variance_median", &LayerAnalysis::set_variance_median},
    {"mean_square", &LayerAnalysis::set_mean_square},
    {"max_abs", &LayerAnalysis::set_max_abs},
    {"variance_mean_without_first", &LayerAnalysis::set_variance_mean_without_first},
    {"attention_ratio", &LayerAnalysis::set_attention_ratio},
    {"ffn_ratio", &LayerAnalysis::set_ffn_ratio},
    {"loss_without", &LayerAnalysis::set_loss_without},
    {"gradient_norm", &LayerAnalysis::set_gradient_norm},
    {"boundary_gradient_ratio", &LayerAnalysis::set_boundary_gradient_ratio},
    {"jacobian_identity_distance", &LayerAnalysis::set_jacobian_distance_mean},
    {"jacobian_identity_distance_median", &LayerAnalysis::set_jacobian_distance_median},
};

/// The attempt in "step-00000100.attempt-002"; 0 if there is none.
int AttemptOf(const std::string& checkpoint) {
  const size_t mark = checkpoint.rfind(kAttemptMark);
  int attempt = 0;
  if (mark == std::string::npos) return 0;
  return absl::SimpleAtoi(checkpoint.substr(mark + kAttemptMark.size()), &attempt) ? attempt : 0;
}

/// Row `layer` of a triangle of distances.
void AddDistances(const json& document, const char* kind, int layer, google::protobuf::RepeatedField<float>* target) {
  const auto distances = document.find("angular_distance");
  if (distances == document.end()) return;
  for (const json& distance : distances->at(kind).at(static_cast<size_t>(layer) - 1)) {
    target->Add(distance.get<float>());
  }
}

v1::Analysis FromJson(const json& document) {
  v1::Analysis analysis;
  analysis.set_step(document.at("step").get<int64_t>());
  analysis.set_checkpoint(document.at("checkpoint").get<std::string>());
  analysis.set_attempt(AttemptOf(analysis.checkpoint()));
  analysis.set_dataset(document.at("dataset").get<std::string>());
  analysis.set_sequences(document.at("sequences").get<int64_t>());
  analysis.set_seq_len(document.at("seq_len").get<int64_t>());
  analysis.set_tokens(document.at("tokens").get<int64_t>());
  analysis.set_loss(document.at("loss").get<double>());
  for (const json& row : document.at("layers")) {
    LayerAnalysis* layer = analysis.add_layers();
    layer->set_layer(row.at("layer").get<int>());
    for (const Column& column : kColumns) {
      const auto value = row.find(column.name);
      if (value != row.end() && value->is_number()) (layer->*column.set)(value->get<double>());
    }
    AddDistances(document, "all_positions", layer->layer(), layer->mutable_angular_distance());
    AddDistances(document, "last_position", layer->layer(), layer->mutable_angular_distance_last());
  }
  return analysis;
}

/// The first number that the analysis of a model without finite outputs lacks; empty if there is none.
std::string FindNull(const json& document) {
  const auto loss = document.find("loss");
  if (loss != document.end() && loss->is_null()) return "loss";
  const json distances = document.value("angular_distance", json::object());
  for (const char* kind : {"all_positions", "last_position"}) {
    for (const json& row : distances.value(kind, json::array())) {
      for (const json& distance : row) {
        if (distance.is_null()) return fmt::format("angular_distance.{}", kind);
      }
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<v1::Analysis> ReadAnalysis(const std::string& text) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || document.value("format", json()) != kFormat) {
    return absl::InvalidArgumentError(fmt::format("is no {}", kFormat));
  }
  // The library says what is missing or of another type only by throwing.
  try {
    if (const std::string field = FindNull(document); !field.empty()) {
      return absl::FailedPreconditionError(
          fmt::format("has no number in '{}': what the model computes there is not finite, as after training that "
                      "diverged; the files stay, and nothing is added to the run's history",
                      field));
    }
    v1::Analysis analysis = FromJson(document);
    if (analysis.attempt() > 0 && analysis.step() > 0) return analysis;
    return absl::InvalidArgumentError(
        fmt::format("is of '{}', step {}, which is no checkpoint of a run", analysis.checkpoint(), analysis.step()));
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("is no whole {}: {}", kFormat, error.what()));
  }
}

}  // namespace normlab::cli
