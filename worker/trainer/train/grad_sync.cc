#include "worker/trainer/train/grad_sync.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <stdexcept>
#include <utility>

namespace normlab::trainer {
namespace {

// As c10d: small enough to begin early, large enough that the network's latency is not what one pays for.
constexpr int64_t kBucketElements = 25 * 1024 * 1024 / sizeof(float);
// The first one is sent while most of backward is still to come.
constexpr int64_t kFirstBucketElements = 1024 * 1024 / sizeof(float);

}  // namespace

class GradSync::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradSync& sync, size_t bucket) : sync_(sync), bucket_(bucket) {}
  void operator()(const at::Tensor&) override { sync_.OnGradient(bucket_); }

 private:
  GradSync& sync_;
  size_t bucket_;
};

GradSync::GradSync(Gang& gang, const std::vector<Parameter>& parameters, bool is_wide)
    : gang_(gang),
      parameters_(parameters),
      is_wide_(is_wide && parameters.front().tensor.scalar_type() == at::kBFloat16) {
  if (gang.world_size() > 1 || is_wide_) MakeBuckets();
}

GradSync::~GradSync() {
  for (const Bucket& bucket : buckets_) {
    for (const size_t index : bucket.parameters) {
      torch::autograd::impl::set_post_acc_grad_hooks(parameters_[index].tensor, nullptr);
    }
  }
}

void GradSync::MakeBuckets() {
  int64_t elements = 0;
  for (size_t i = parameters_.size(); i-- > 0;) {
    const int64_t limit = buckets_.size() <= 1 ? kFirstBucketElements : kBucketElements;
    if (buckets_.empty() || elements >= limit) {
      buckets_.emplace_back();
      elements = 0;
    }
    buckets_.back().parameters.push_back(i);
    elements += parameters_[i].tensor.numel();
  }
  for (size_t b = 0; b < buckets_.size(); ++b) {
    Bucket& bucket = buckets_[b];
    int64_t size = 0;
    for (const size_t index : bucket.parameters) size += parameters_[index].tensor.numel();
    const at::TensorOptions options = parameters_.front().tensor.options().requires_grad(false);
    bucket.flat = at::zeros({size}, is_wide_ ? options.dtype(at::kFloat) : options);
    int64_t offset = 0;
    for (const size_t index : bucket.parameters) {
      const at::Tensor& parameter = parameters_[index].tensor;
      if (is_wide_) parameter.set_grad_dtype(at::kFloat);
      // Autograd adds into a gradient that is there already, in place.
      parameter.mutable_grad() = bucket.flat.narrow(0, offset, parameter.numel()).view(parameter.sizes());
      offset += parameter.numel();
      torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Hook>(*this, b));
    }
  }
}

void GradSync::ZeroGradients() {
  if (buckets_.empty()) {
    // Autograd then keeps the new gradient's memory instead of adding it to zeros.
    for (const Parameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
  }
  for (const Bucket& bucket : buckets_) bucket.flat.zero_();
}

void GradSync::ExpectLastBackward() {
  is_last_backward_ = true;
  next_bucket_ = 0;
  for (Bucket& bucket : buckets_) bucket.num_missing = bucket.parameters.size();
}

void GradSync::OnGradient(size_t bucket) {
  if (!is_last_backward_) return;
  --buckets_[bucket].num_missing;
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].num_missing == 0; ++next_bucket_) {
    buckets_[next_bucket_].sum = gang_.StartSum(buckets_[next_bucket_].flat);
  }
}

void GradSync::Finish() {
  is_last_backward_ = false;
  if (next_bucket_ != buckets_.size()) {
    throw std::logic_error("backward left a parameter without gradient, so that its bucket was never sent");
  }
  for (Bucket& bucket : buckets_) {
    if (const auto sum = std::exchange(bucket.sum, nullptr)) sum->Wait();  // None in a gang of one.
  }
}

}  // namespace normlab::trainer
