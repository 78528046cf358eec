#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <int kLanes, int kPacks, typename TA, typename TB>
__global__ void NORMLAB_ROW_BOUNDS(kLanes, kPacks) ColumnProductsKernel(ColumnProducts<TA, TB> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunColumnProducts<kLanes, kPacks>(a, thread, threads);
}

template <typename T>
__global__ void __launch_bounds__(kSumPartsThreads) SumPartsKernel(SumParts<T> a) {
  __shared__ float shared[kSumPartsThreads];
  DeviceThread thread(shared);
  RunSumParts<T>(a, thread);
}

}  // namespace

template <typename TA, typename TB>
cudaError_t Launch(const ColumnProducts<TA, TB>& a, const RowPlan& plan, int blocks, cudaStream_t stream) {
  WithPlan<kPackBytes / sizeof(TB)>(plan, [&]<int kLanes, int kPacks>() {
    ColumnProductsKernel<kLanes, kPacks><<<blocks, plan.BlockThreads(), 0, stream>>>(a, plan.threads);
  });
  return cudaGetLastError();
}

template <typename T>
cudaError_t Launch(const SumParts<T>& a, cudaStream_t stream) {
  SumPartsKernel<T><<<(a.width + kWarpSize - 1) / kWarpSize, kSumPartsThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

template cudaError_t Launch(const ColumnProducts<float, float>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const ColumnProducts<float, Bfloat16>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const ColumnProducts<Bfloat16, Bfloat16>&, const RowPlan&, int, cudaStream_t);
template cudaError_t Launch(const SumParts<float>&, cudaStream_t);
template cudaError_t Launch(const SumParts<Bfloat16>&, cudaStream_t);

}  // namespace normlab::trainer::cuda
