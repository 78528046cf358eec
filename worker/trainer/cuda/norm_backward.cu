#include "worker/trainer/cuda/device_thread.h"
#include "worker/trainer/cuda/launch.h"

namespace normlab::trainer::cuda {
namespace {

template <typename T, int kLanes, int kPacks, bool kHasBias>
__global__ void __launch_bounds__(BlockThreadsMax(kLanes, kPacks),
                                  ResidentBlocksMin(BlockThreadsMax(kLanes, kPacks), kHasBias ? 168 : 128))
    NormBackwardKernel(NormBackward<T> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunNormBackward<T, kLanes, kPacks, kHasBias>(a, thread, threads);
}

template <typename T, int kLanes, int kPacks>
__global__ void __launch_bounds__(BlockThreadsMax(kLanes, kPacks),
                                  ResidentBlocksMin(BlockThreadsMax(kLanes, kPacks), 128))
    ColumnProductsKernel(ColumnProducts<T> a, int threads) {
  __shared__ float shared[kSharedFloats];
  DeviceThread thread(shared);
  RunColumnProducts<T, kLanes, kPacks>(a, thread, threads);
}

template <typename T>
__global__ void __launch_bounds__(kSumPartsThreads) SumPartsKernel(SumParts<T> a) {
  __shared__ float shared[kSumPartsThreads];
  DeviceThread thread(shared);
  RunSumParts<T>(a, thread);
}

}  // namespace

template <typename T>
cudaError_t Launch(const NormBackward<T>& a, const RowPlan& plan, cudaStream_t stream) {
  const int blocks = SummingBlocks(a.rows, plan), block_threads = plan.BlockThreads();
  WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
    if (a.bias_parts != nullptr) {
      NormBackwardKernel<T, kLanes, kPacks, true><<<blocks, block_threads, 0, stream>>>(a, plan.threads);
    } else {
      NormBackwardKernel<T, kLanes, kPacks, false><<<blocks, block_threads, 0, stream>>>(a, plan.threads);
    }
  });
  return cudaGetLastError();
}

template <typename T>
cudaError_t Launch(const ColumnProducts<T>& a, const RowPlan& plan, cudaStream_t stream) {
  WithPlan<kPackBytes / sizeof(T)>(plan, [&]<int kLanes, int kPacks>() {
    ColumnProductsKernel<T, kLanes, kPacks>
        <<<SummingBlocks(a.rows, plan), plan.BlockThreads(), 0, stream>>>(a, plan.threads);
  });
  return cudaGetLastError();
}

template <typename T>
cudaError_t Launch(const SumParts<T>& a, cudaStream_t stream) {
  SumPartsKernel<T><<<(a.width + kWarpSize - 1) / kWarpSize, kSumPartsThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

template cudaError_t Launch(const NormBackward<float>&, const RowPlan&, cudaStream_t);
template cudaError_t Launch(const NormBackward<Bfloat16>&, const RowPlan&, cudaStream_t);
template cudaError_t Launch(const ColumnProducts<float>&, const RowPlan&, cudaStream_t);
template cudaError_t Launch(const ColumnProducts<Bfloat16>&, const RowPlan&, cudaStream_t);
template cudaError_t Launch(const SumParts<float>&, cudaStream_t);
template cudaError_t Launch(const SumParts<Bfloat16>&, cudaStream_t);

}  // namespace normlab::trainer::cuda
