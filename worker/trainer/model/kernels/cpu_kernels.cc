#include "worker/trainer/model/kernels/cpu_kernels.h"

namespace normlab::trainer {

extern const CpuKernels<float> kBaselineFloat;
extern const CpuKernels<double> kBaselineDouble;

int64_t AttentionScratchSize(int64_t seq, int64_t head_dim) {
  // The backward pass: query, key, gradients of output, query, key and value by row; key and value by column; and two
  // blocks of rows of scores.
  return 6 * PaddedToTile(seq) * ScratchStride(head_dim) + 2 * (head_dim + kQueryBlock) * ScratchStride(seq);
}

#ifdef NORMLAB_KERNELS_AVX2
extern const CpuKernels<float> kAvx2Float;
extern const CpuKernels<double> kAvx2Double;

static bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

template <>
const CpuKernels<float>& Kernels<float>() {
  static const CpuKernels<float>& kernels = HasAvx2() ? kAvx2Float : kBaselineFloat;
  return kernels;
}

template <>
const CpuKernels<double>& Kernels<double>() {
  static const CpuKernels<double>& kernels = HasAvx2() ? kAvx2Double : kBaselineDouble;
  return kernels;
}
#else
template <>
const CpuKernels<float>& Kernels<float>() {
  return kBaselineFloat;
}

template <>
const CpuKernels<double>& Kernels<double>() {
  return kBaselineDouble;
}
#endif

}  // namespace normlab::trainer
