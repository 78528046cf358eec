// For any machine of the compiler's target.
#include "worker/trainer/model/kernels/cpu_kernels_impl.h"

namespace normlab::trainer {

extern const CpuKernels<float> kBaselineFloat;
extern const CpuKernels<double> kBaselineDouble;
const CpuKernels<float> kBaselineFloat = kKernels<float>;
const CpuKernels<double> kBaselineDouble = kKernels<double>;

}  // namespace normlab::trainer
