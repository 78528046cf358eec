#include "worker/trainer/diagnostics/stream_variance.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace normlab::trainer {
namespace {

double Median(std::vector<float>* values) {
  if (values->empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = values->begin() + static_cast<std::ptrdiff_t>(values->size() / 2);
  std::nth_element(values->begin(), middle, values->end());
  if (values->size() % 2 == 1) return *middle;
  return (static_cast<double>(*middle) + *std::max_element(values->begin(), middle)) / 2;
}

}  // namespace

void StreamVariance::AddTo(Values* values, const at::Tensor& x) {
  if (x.size(0) == 0) return;
  const at::Tensor exact = x.to(at::kDouble);                                                       // [tokens, hidden]
  const at::Tensor mean_square = exact.square().mean(-1);                                           // [tokens]
  const at::Tensor variance = (mean_square - exact.mean(-1).square()).to(at::kFloat).contiguous();  // [tokens]
  const float* begin = variance.const_data_ptr<float>();
  values->variances.insert(values->variances.end(), begin, begin + variance.numel());
  values->mean_square_sum += mean_square.sum().item<double>();
  values->max_abs = std::max(values->max_abs, exact.abs().max().item<double>());
}

void StreamVariance::Add(const std::vector<at::Tensor>& states, const ProbeBatch& batch) {
  TORCH_CHECK(states.size() == boundaries_.size(), states.size(), " states for ", boundaries_.size(), " boundaries");
  const at::Tensor is_first = batch.IsFirst();
  const at::Tensor is_rest = batch.HasTarget().logical_and(is_first.logical_not());
  for (size_t i = 0; i < states.size(); ++i) {
    AddTo(&boundaries_[i].first, RowsWhere(states[i], is_first));
    AddTo(&boundaries_[i].rest, RowsWhere(states[i], is_rest));
  }
}

StreamSummary StreamVariance::Summary(const std::vector<const Values*>& parts) {
  std::vector<float> variances;
  double mean_square_sum = 0, max_abs = 0;
  for (const Values* part : parts) {
    variances.insert(variances.end(), part->variances.begin(), part->variances.end());
    mean_square_sum += part->mean_square_sum;
    max_abs = std::max(max_abs, part->max_abs);
  }
  const auto count = static_cast<double>(variances.size());
  const double variance_sum = std::accumulate(variances.begin(), variances.end(), 0.0);
  return {.variance_mean = variance_sum / count,
          .variance_median = Median(&variances),
          .mean_square = mean_square_sum / count,
          .max_abs = max_abs,
          .tokens = static_cast<int64_t>(variances.size())};
}

std::vector<BoundarySummary> StreamVariance::Summarize() const {
  std::vector<BoundarySummary> summaries;
  for (const Boundary& boundary : boundaries_) {
    summaries.push_back(
        {.all = Summary({&boundary.first, &boundary.rest}), .without_first = Summary({&boundary.rest})});
  }
  return summaries;
}

}  // namespace normlab::trainer
