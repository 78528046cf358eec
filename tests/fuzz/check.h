#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

/// A property that has to hold for every input; a fuzzer stops where it does not.
inline void Check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what.c_str());
  std::abort();
}
