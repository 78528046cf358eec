#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/trainer/diagnostics/analysis.h"

// What an analysis leaves:
//
//   analysis.json          everything, as AnalysisJson gives it; a number that does not exist is null
//   layers.csv             a row per layer: what has one number per layer
//   angular_distance.csv   layer,n,all_positions,last_position
//   gradients.csv          name,layer,norm,rms: a row per parameter
namespace normlab::trainer {

/// Where an analysis comes from.
struct AnalysisOrigin {
  std::string source;  // "checkpoint DIR" or "model DIR"
  std::string name;    // The checkpoint's; empty for a model of others.
  int64_t step;
  std::string scheme;
  std::string dataset;
};

nlohmann::ordered_json AnalysisJson(const AnalysisOrigin& origin, const Analysis& analysis);

/// Makes `folder` if it is not there; each file is replaced as a whole. Returns their names. Throws FileError.
std::vector<std::string> WriteAnalysis(const std::filesystem::path& folder, const AnalysisOrigin& origin,
                                       const Analysis& analysis);

}  // namespace normlab::trainer
