#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <int kLanes, int kPacks, typename TBranch, typename TStream, typename TOutput>
__global__ void NORMLAB_ROW_BOUNDS(kLanes, kPacks)
    NormForwardKernel(NormForward<TBranch, TStream, TOutput> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunNormForward<kLanes, kPacks>(a, thread, threads);
}

}  // namespace

template <typename TBranch, typename TStream, typename TOutput>
cudaError_t Launch(const NormForward<TBranch, TStream, TOutput>& a, const RowPlan& plan, int blocks,
                   cudaStream_t stream) {
  WithPlan<kPackBytes / sizeof(TBranch)>(plan, [&]<int kLanes, int kPacks>() {
    NormForwardKernel<kLanes, kPacks><<<blocks, plan.BlockThreads(), 0, stream>>>(a, plan.threads);
  });
  return cudaGetLastError();
}

template cudaError_t Launch(const NormForward<float, float, float>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormForward<Bfloat16, Bfloat16, Bfloat16>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormForward<Bfloat16, float, Bfloat16>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormForward<Bfloat16, float, float>&, const RowPlan&, int, cudaStream_t);

}  // namespace normlab::trainer::cuda
