// What the exit codes of `normlab` mean; also printed by `normlab --help`.
#pragma once

#include "absl/status/status.h"

namespace normlab::cli {

enum class ExitCode {
  kOk = 0,
  kError = 1,
  kUsage = 2,         // Bad flags or an invalid spec.
  kNotFound = 3,      // No such run, experiment or worker.
  kPrecondition = 4,  // Refused in the present state, or some runs did not succeed.
  kUnreachable = 5,   // The coordinator does not answer.
  kDenied = 6,        // No valid token, or its role is not enough.
  kInterrupted = 130,
};

inline constexpr char kExitCodesHelp[] =
    "Exit codes:\n"
    "  0    ok\n"
    "  1    error\n"
    "  2    bad usage, or a spec that is not valid\n"
    "  3    no such run, experiment or worker\n"
    "  4    refused in the present state, or some runs did not succeed\n"
    "  5    the coordinator cannot be reached\n"
    "  6    no valid token, or its role is not enough\n"
    "  130  interrupted";

inline ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kFailedPrecondition:
      return ExitCode::kPrecondition;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode::kUnreachable;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return ExitCode::kDenied;
    case absl::StatusCode::kCancelled:
      return ExitCode::kInterrupted;
    default:
      return ExitCode::kError;
  }
}

}  // namespace normlab::cli
