#pragma once

#include <string_view>

// What GPUs can do, by NVIDIA's data sheets: dense products (no sparsity) per second.
namespace normlab::trainer {

struct GpuRow {
  std::string_view name;  // One or several words of the driver's name; the first row whose words are all there counts.
  double bf16_flops;      // Tensor cores, sums in float32.
  double fp32_flops;      // Without TF32, which the trainer does not use.
};

inline constexpr GpuRow kGpuTable[] = {
    {"H100 PCIe", 756e12, 51e12},  {"H100 NVL", 835e12, 60e12},    {"H100", 989e12, 67e12},
    {"H200 NVL", 836e12, 60e12},   {"H200", 989e12, 67e12},        {"GH200", 989e12, 67e12},
    {"H800", 989e12, 67e12},       {"H20", 148e12, 44e12},         {"B200", 2250e12, 75e12},
    {"A100", 312e12, 19.5e12},     {"A800", 312e12, 19.5e12},      {"A40", 150e12, 37.4e12},
    {"A10", 125e12, 31.2e12},      {"L40S", 362e12, 91.6e12},      {"L40", 181e12, 90.5e12},
    {"L4", 121e12, 30.3e12},       {"RTX A6000", 155e12, 38.7e12}, {"RTX 6000 Ada", 364e12, 91.1e12},
    {"RTX 4090", 165e12, 82.6e12}, {"RTX 3090", 71e12, 35.6e12},
};

namespace internal {

constexpr bool IsPartOfWord(char c) { return c != ' ' && c != '-'; }

constexpr bool HasWord(std::string_view name, std::string_view word) {
  for (size_t at = name.find(word); at != std::string_view::npos; at = name.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !IsPartOfWord(name[at - 1])) && (end == name.size() || !IsPartOfWord(name[end]))) return true;
  }
  return false;
}

}  // namespace internal

/// The row of a GPU by the driver's name for it ("NVIDIA A100-SXM4-80GB"), or null: it is not in the table.
constexpr const GpuRow* FindGpu(std::string_view name) {
  for (const GpuRow& row : kGpuTable) {
    bool has_all = true;
    for (std::string_view rest = row.name; !rest.empty();) {
      const size_t space = rest.find(' ');
      has_all = has_all && internal::HasWord(name, rest.substr(0, space));
      rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
    }
    if (has_all) return &row;
  }
  return nullptr;
}

}  // namespace normlab::trainer
