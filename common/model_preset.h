#pragma once

#include <cstdint>
#include <string_view>

// The published model shapes as a table. Sources: the configuration files of GaLore (arXiv:2403.03507) and of LayerNorm
// Scaling (arXiv:2502.05795), which are the same. All of them: RMSNorm with eps 1e-6, init std 0.02, untied head.
namespace normlab {

/// What a preset gives; a field that the spec gives itself wins.
struct ModelPreset {
  std::string_view name;
  int num_layers;
  int64_t hidden;
  int64_t num_heads;
  int64_t ffn_hidden;
  int64_t vocab_size;  // Of the published model; a run takes that of its dataset.
};

/// The value of model.preset that gives nothing.
inline constexpr std::string_view kNoPreset = "none";

inline constexpr ModelPreset kModelPresets[] = {
    {"9m", 4, 128, 4, 352, 32000},       {"20m", 4, 256, 4, 688, 32000},
    {"35m", 6, 384, 8, 1024, 32000},     {"40m", 8, 416, 8, 1024, 32000},
    {"60m", 8, 512, 8, 1376, 32000},     {"71m", 12, 512, 8, 1368, 32000},
    {"100m", 12, 640, 10, 1708, 32100},  {"130m", 12, 768, 12, 2048, 32000},
    {"250m", 24, 768, 16, 2560, 32000},  // One paper prints hidden 1024; only 768 gives 250 million.
    {"350m", 24, 1024, 16, 2736, 32000}, {"1b", 24, 2048, 32, 5461, 32000},
    {"3b", 32, 2560, 32, 6848, 32000},   {"7b", 32, 4096, 32, 11008, 32000},
};

/// The row of that name, or null.
constexpr const ModelPreset* FindModelPreset(std::string_view name) {
  for (const ModelPreset& preset : kModelPresets) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

}  // namespace normlab
