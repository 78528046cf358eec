#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace normlab::trainer {

/// Elements [begin, end) of one parameter, counted in its flat form.
struct ParameterSlice {
  size_t parameter;
  int64_t begin;
  int64_t end;
  friend bool operator==(const ParameterSlice&, const ParameterSlice&) = default;
};

/// The part of all parameters, laid one after another, whose optimizer state belongs to `rank`: parts are contiguous,
/// cover all once, and differ by at most one element (ZeRO stage 1, arXiv:1910.02054).
inline std::vector<ParameterSlice> SlicesOfRank(const std::vector<int64_t>& sizes, int rank, int world_size) {
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  const int64_t begin = total * rank / world_size, end = total * (rank + 1) / world_size;
  std::vector<ParameterSlice> slices;
  int64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t first = begin > offset ? begin - offset : 0;
    const int64_t last = end - offset < sizes[i] ? end - offset : sizes[i];
    if (first < last) slices.push_back({.parameter = i, .begin = first, .end = last});
    offset += sizes[i];
  }
  return slices;
}

}  // namespace normlab::trainer
