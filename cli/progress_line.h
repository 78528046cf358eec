// One line that says how far a long job is: redrawn on a terminal, printed now and then elsewhere.
#pragma once

#include <string>

#include "absl/time/time.h"

namespace normlab::cli {

class ProgressLine {
 public:
  /// On stderr. Prints nothing at all if `is_silent`.
  ProgressLine(std::string what, bool is_silent);
  /// Ends the line where it is, if Finish was not called.
  ~ProgressLine();
  /// Leaves a line behind that says what was done and how long it took.
  void Finish();

  /// `fraction` from 0 to 1, `detail` behind the bar.
  void Update(double fraction, const std::string& detail);

 private:
  void Print(double fraction);

  const std::string what_;
  const bool is_silent_;
  const bool is_live_;
  const absl::Time started_at_;
  absl::Time printed_at_;
  std::string detail_;
  bool is_finished_ = false;
};

}  // namespace normlab::cli
