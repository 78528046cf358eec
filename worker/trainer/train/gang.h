#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "worker/trainer/events.h"
#include "worker/trainer/spec.h"

namespace normlab::trainer {

/// The processes of one attempt, joined through c10d's TCPStore and Gloo; tensors on a GPU go through NCCL. With one
/// process everything here does nothing. All ranks must call the same methods in the same order with equal shapes. A
/// peer that dies makes the next call throw at once, one that hangs after two minutes. One thread.
///
/// NCCL calls return when they are queued: later work on the GPU waits for them, the host does not. Where a peer is
/// gone they never end; then c10d's watchdog aborts the communicators and ends the process, unless the next call for a
/// tensor of the host, which each update makes, has seen it before and thrown.
class Gang {
 public:
  /// A sum that is under way.
  class Pending {
   public:
    virtual ~Pending() = default;
    /// Returns when the tensor holds the sum.
    virtual void Wait() = 0;
  };

  /// Meets the other ranks. Rank 0 listens on a free port of `bind_host` and reports it at once. Throws
  /// std::runtime_error that names the ranks that did not come within a minute, PermanentError if their specs
  /// (`spec_digest`) are not the same.
  /// With a GPU as `device` it needs libnormlab_cuda.so.
  Gang(const TrainerSpec& spec, const std::string& spec_digest, EventSink& events, c10::Device device = c10::kCPU);
  ~Gang();

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  bool is_first() const { return rank_ == 0; }

  /// Overwrites the tensors with those of rank `from`.
  void Broadcast(const std::vector<at::Tensor>& tensors, int from = 0);

  /// Copies the tensor of rank `from` over that of rank 0; the other ranks' are neither read nor written.
  void SendToFirst(const at::Tensor& tensor, int from);

  /// Replaces the tensor with the sum over all ranks.
  void Sum(const at::Tensor& tensor);
  /// As Sum, but returns at once; the tensor may not be touched before Wait. None with one process.
  std::unique_ptr<Pending> StartSum(const at::Tensor& tensor);

  /// Returns when all ranks have called it.
  void Barrier();

 private:
  struct Impl;
  int rank_;
  int world_size_;
  std::unique_ptr<Impl> impl_;  // None with one process.
};

}  // namespace normlab::trainer
