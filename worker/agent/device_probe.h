// What trainers of this worker compute on. The agent loads no CUDA library: the trainer program says.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace normlab::agent {

struct WorkerDevice {
  std::string name = "cpu";                   // Or the GPU's.
  std::string lacks;                          // Why it is no GPU; empty if it is one.
  std::map<std::string, std::string> labels;  // Of a GPU: device=cuda and gpu=NAME, with '-' for blanks.
};

struct DeviceProbeOptions {
  std::string trainer;
  /// Where none of these exists there is no driver, and the trainer is not started for it.
  std::vector<std::string> driver_files = {"/dev/nvidiactl", "/dev/dxg"};
  absl::Duration timeout = absl::Minutes(1);
};

/// Runs `trainer --probe-device` and waits for its answer. Never fails: a trainer that gives none is a CPU's, and
/// `lacks` says what it did. Call it before BecomeSubreaper.
WorkerDevice ProbeDevice(const DeviceProbeOptions& options);

/// The answer in the probe's output.
WorkerDevice ParseProbe(std::string_view output);

}  // namespace normlab::agent
