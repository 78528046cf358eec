#pragma once

#include <cuda_runtime_api.h>

#include "worker/trainer/cuda/cross_entropy_kernel.h"
#include "worker/trainer/cuda/norm_kernel.h"
#include "worker/trainer/cuda/row_plan.h"
#include "worker/trainer/cuda/swiglu_kernel.h"

// Starts kernels on a stream and does not wait. T is float or Bfloat16. `plan` is PlanRows of the row's width and of
// lanes that fit every address; `lanes` likewise. rows > 0. Gives cudaSuccess or why the start failed.
namespace normlab::trainer::cuda {

/// TBranch, TStream, TOutput: all float, all Bfloat16, or TBranch Bfloat16 and TStream float.
template <typename TBranch, typename TStream, typename TOutput>
cudaError_t Launch(const NormForward<TBranch, TStream, TOutput>& a, const RowPlan& plan, int blocks,
                   cudaStream_t stream);

/// TWeight, TGrad, TX: all float, or TWeight Bfloat16.
template <typename TWeight, typename TGrad, typename TX>
cudaError_t Launch(const NormBackward<TWeight, TGrad, TX>& a, const RowPlan& plan, int blocks, cudaStream_t stream);

/// TA, TB: the same, or TA float.
template <typename TA, typename TB>
cudaError_t Launch(const ColumnProducts<TA, TB>& a, const RowPlan& plan, int blocks, cudaStream_t stream);

template <typename T>
cudaError_t Launch(const SumParts<T>& a, cudaStream_t stream);

template <typename T>
cudaError_t Launch(const SwiGluForward<T>& a, int lanes, cudaStream_t stream);

template <typename T>
cudaError_t Launch(const SwiGluBackward<T>& a, int lanes, cudaStream_t stream);

template <typename T>
cudaError_t Launch(const CrossEntropy<T>& a, int lanes, cudaStream_t stream);

}  // namespace normlab::trainer::cuda
