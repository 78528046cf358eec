#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <int kLanes, int kPacks, bool kHasBias, typename TWeight, typename TGrad, typename TX>
__global__ void NORMLAB_ROW_BOUNDS(kLanes, kPacks) NormBackwardKernel(NormBackward<TWeight, TGrad, TX> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunNormBackward<kLanes, kPacks, kHasBias>(a, thread, threads);
}

}  // namespace

template <typename TWeight, typename TGrad, typename TX>
cudaError_t Launch(const NormBackward<TWeight, TGrad, TX>& a, const RowPlan& plan, int blocks, cudaStream_t stream) {
  const int block_threads = plan.BlockThreads();
  WithPlan<kPackBytes / sizeof(TWeight)>(plan, [&]<int kLanes, int kPacks>() {
    if (a.bias_parts != nullptr) {
      NormBackwardKernel<kLanes, kPacks, true><<<blocks, block_threads, 0, stream>>>(a, plan.threads);
    } else {
      NormBackwardKernel<kLanes, kPacks, false><<<blocks, block_threads, 0, stream>>>(a, plan.threads);
    }
  });
  return cudaGetLastError();
}

template cudaError_t Launch(const NormBackward<float, float, float>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormBackward<Bfloat16, Bfloat16, Bfloat16>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormBackward<Bfloat16, Bfloat16, float>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormBackward<Bfloat16, float, float>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const NormBackward<Bfloat16, float, Bfloat16>&, const RowPlan&, int, cudaStream_t);

}  // namespace normlab::trainer::cuda
