#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// A model as a class of the transformers library: its config.json, and where each of its arrays comes from.
struct HuggingFaceModel {
  /// value = scale * output_scale * (value in our checkpoint) + offset
  struct Array {
    std::string name;    // There.
    std::string source;  // In our checkpoint.
    std::vector<int64_t> shape;
    double scale = 1;               // Of a norm's output, folded into its gain; of a branch, into its last matrix.
    std::string output_scale = {};  // Learned scale of a branch in our checkpoint: one number or one per output.
    int64_t output_scale_size = 0;
    bool is_output_last = false;  // Outputs are the last dimension and not the first.
    double offset = 0;
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
