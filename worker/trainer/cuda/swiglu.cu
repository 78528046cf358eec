#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <typename T, int kLanes>
__global__ void __launch_bounds__(kWarpsMax* kWarpSize) SwiGluForwardKernel(SwiGluForward<T> a) {
  DeviceThread thread(nullptr);
  RunSwiGluForward<T, kLanes>(a, thread);
}

template <typename T, int kLanes>
__global__ void __launch_bounds__(kWarpsMax* kWarpSize) SwiGluBackwardKernel(SwiGluBackward<T> a) {
  DeviceThread thread(nullptr);
  RunSwiGluBackward<T, kLanes>(a, thread);
}

}  // namespace

template <typename T>
cudaError_t Launch(const SwiGluForward<T>& a, int lanes, cudaStream_t stream) {
  const int blocks = SwiGluBlocks(a.rows), threads = SwiGluThreads(a.width, lanes);
  if (lanes == 1) {
    SwiGluForwardKernel<T, 1><<<blocks, threads, 0, stream>>>(a);
  } else {
    SwiGluForwardKernel<T, kPackBytes / sizeof(T)><<<blocks, threads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

template <typename T>
cudaError_t Launch(const SwiGluBackward<T>& a, int lanes, cudaStream_t stream) {
  const int blocks = SwiGluBlocks(a.rows), threads = SwiGluThreads(a.width, lanes);
  if (lanes == 1) {
    SwiGluBackwardKernel<T, 1><<<blocks, threads, 0, stream>>>(a);
  } else {
    SwiGluBackwardKernel<T, kPackBytes / sizeof(T)><<<blocks, threads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

template cudaError_t Launch(const SwiGluForward<float>&, int, cudaStream_t);
template cudaError_t Launch(const SwiGluForward<Bfloat16>&, int, cudaStream_t);
template cudaError_t Launch(const SwiGluBackward<float>&, int, cudaStream_t);
template cudaError_t Launch(const SwiGluBackward<Bfloat16>&, int, cudaStream_t);

}  // namespace normlab::trainer::cuda
