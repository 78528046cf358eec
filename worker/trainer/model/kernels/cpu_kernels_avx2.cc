// For x86 machines with AVX2 and FMA.
#include "worker/trainer/model/kernels/cpu_kernels_impl.h"

namespace normlab::trainer {

extern const CpuKernels<float> kAvx2Float;
extern const CpuKernels<double> kAvx2Double;
const CpuKernels<float> kAvx2Float = kKernels<float>;
const CpuKernels<double> kAvx2Double = kKernels<double>;

}  // namespace normlab::trainer
