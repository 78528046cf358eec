#include "worker/trainer/train/peak_flops.h"

#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <limits>

#include "worker/trainer/train/trainer_reports.h"

namespace normlab::trainer {

double MeasurePeakFlops() {
  constexpr int64_t kSize = 512;
  constexpr int kProducts = 8;
  const c10::NoGradGuard no_grad;
  const at::Tensor a = at::full({kSize, kSize}, 0.5F), b = at::full({kSize, kSize}, 0.25F);
  double seconds = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kProducts; ++i) {
    Stopwatch watch;
    at::mm(a, b);
    seconds = std::min(seconds, watch.Lap());
  }
  return 2.0 * kSize * kSize * kSize / seconds;
}

}  // namespace normlab::trainer
