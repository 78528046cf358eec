#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace normlab::bench {

/// A real normlab-coordinator with a data folder of its own. Killed with the benchmark, whatever ends it.
class CoordinatorProcess {
 public:
  /// Starts `binary` on free loopback ports with its data in `data_folder` (created if missing) and waits until it
  /// listens. The error holds the end of its log.
  static absl::StatusOr<std::unique_ptr<CoordinatorProcess>> Start(const std::string& binary,
                                                                   const std::string& data_folder);
  CoordinatorProcess(const CoordinatorProcess&) = delete;
  CoordinatorProcess& operator=(const CoordinatorProcess&) = delete;
  ~CoordinatorProcess();

  /// Processor time so far, all threads.
  double CpuSeconds() const;
  int64_t ResidentBytes() const;

  /// "127.0.0.1:PORT" of gRPC.
  const std::string& grpc_address() const { return grpc_address_; }

 private:
  explicit CoordinatorProcess(pid_t pid) : pid_(pid) {}

  const pid_t pid_;
  std::string grpc_address_;
};

}  // namespace normlab::bench
