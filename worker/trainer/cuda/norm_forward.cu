#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <typename T, int kLanes, int kPacks>
__global__ void __launch_bounds__(BlockThreadsMax(kLanes, kPacks),
                                  ResidentBlocksMin(BlockThreadsMax(kLanes, kPacks), 128))
    NormForwardKernel(NormForward<T> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunNormForward<T, kLanes, kPacks>(a, thread, threads);
}

}  // namespace

template <typename T>
cudaError_t Launch(const NormForward<T>& a, const RowPlan& plan, cudaStream_t stream) {
  WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
    NormForwardKernel<T, kLanes, kPacks>
        <<<ForwardBlocks(a.rows, plan), plan.BlockThreads(), 0, stream>>>(a, plan.threads);
  });
  return cudaGetLastError();
}

template cudaError_t Launch(const NormForward<float>&, const RowPlan&, cudaStream_t);
template cudaError_t Launch(const NormForward<Bfloat16>&, const RowPlan&, cudaStream_t);

}  // namespace normlab::trainer::cuda
