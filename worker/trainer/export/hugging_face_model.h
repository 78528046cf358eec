#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// A model as a class of the transformers library: its config.json, and where each of its arrays comes from.
struct HuggingFaceModel {
  struct Array {
    std::string name;    // There.
    std::string source;  // In our checkpoint.
    std::vector<int64_t> shape;
    double scale;  // Multiplies the values: a scale of a norm's output is folded into its gain.
  };
  std::string architecture;  // "LlamaForCausalLM"
  nlohmann::ordered_json config;
  std::vector<Array> arrays;
};

/// No class of the transformers library computes the model; the message says which parts and why.
struct NotExpressible : PermanentError {
  using PermanentError::PermanentError;
};

/// `eos_id` is the token that ends a text; negative if it is not known. Throws NotExpressible.
HuggingFaceModel ExpressForHuggingFace(const RunSpec& run, int64_t vocab_size, int64_t eos_id);

}  // namespace normlab::trainer
