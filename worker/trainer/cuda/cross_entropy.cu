#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <typename T, int kLanes>
__global__ void __launch_bounds__(kCrossEntropyThreads) CrossEntropyKernel(CrossEntropy<T> a) {
  __shared__ float shared[2 * kReduceSlots];
  DeviceThread thread(shared);
  RunCrossEntropy<T, kLanes>(a, thread);
}

}  // namespace

template <typename T>
cudaError_t Launch(const CrossEntropy<T>& a, int lanes, cudaStream_t stream) {
  const int blocks = CrossEntropyBlocks(a.rows);
  if (lanes == 1) {
    CrossEntropyKernel<T, 1><<<blocks, kCrossEntropyThreads, 0, stream>>>(a);
  } else {
    CrossEntropyKernel<T, kPackBytes / sizeof(T)><<<blocks, kCrossEntropyThreads, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

template cudaError_t Launch(const CrossEntropy<float>&, int, cudaStream_t);
template cudaError_t Launch(const CrossEntropy<Bfloat16>&, int, cudaStream_t);

}  // namespace normlab::trainer::cuda
