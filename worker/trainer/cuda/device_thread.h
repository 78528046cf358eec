#pragma once

#include "worker/trainer/cuda/team.h"

/// How many registers a kernel over rows has.
#define NORMLAB_ROW_BOUNDS(lanes, packs) __maxnreg__(RegistersMax((lanes), (packs)))

namespace normlab::trainer::cuda {

/// One thread of a one-dimensional grid, as the kernels' bodies see it.
class DeviceThread {
 public:
  /// `shared`: kSharedFloats of the block's.
  explicit __device__ __forceinline__ DeviceThread(float* shared) : shared_(shared) {}

  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int block_size() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ int block() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int num_blocks() const { return static_cast<int>(gridDim.x); }
  __device__ __forceinline__ float* shared() const { return shared_; }
  __device__ __forceinline__ void Barrier() const { __syncthreads(); }
  __device__ __forceinline__ float ShuffleXor(float value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }

 private:
  float* shared_;
};

}  // namespace normlab::trainer::cuda
