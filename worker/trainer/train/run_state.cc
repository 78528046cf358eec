#include "worker/trainer/train/run_state.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "worker/trainer/model/portable.h"
#include "worker/trainer/train/safetensors.h"
#include "worker/trainer/train/shards.h"
#include "worker/trainer/train/tensor_norms.h"

namespace normlab::trainer {
namespace {

struct StatePart {
  const char* prefix;
  at::Tensor Adam::State::*member;
};
constexpr StatePart kStateParts[] = {
    {"exp_avg.", &Adam::State::exp_avg}, {"exp_avg_sq.", &Adam::State::exp_avg_sq}, {"master.", &Adam::State::master}};

at::Tensor Flat(const at::Tensor& tensor) { return tensor.detach().view({-1}); }

/// Float32 memory of the host of that shape: the tensor itself, if that is what it has.
at::Tensor HostOf(const at::Tensor& tensor) {
  return HasOwnKernels(tensor) ? tensor : at::empty(tensor.sizes(), at::kFloat);
}

std::span<float> Values(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

std::vector<int64_t> SizesOf(const std::vector<Parameter>& parameters) {
  std::vector<int64_t> sizes;
  for (const Parameter& parameter : parameters) sizes.push_back(parameter.tensor.numel());
  return sizes;
}

int64_t CountOf(const std::vector<ParameterSlice>& slices) {
  int64_t count = 0;
  for (const ParameterSlice& slice : slices) count += slice.end - slice.begin;
  return count;
}

/// Copies tensors one behind another into `to`, on all threads; returns when they are there.
void CopyFlat(const std::vector<at::Tensor>& tensors, float* to) {
  if (!tensors.empty() && !HasOwnKernels(tensors.front())) {
    for (const at::Tensor& tensor : tensors) {
      at::from_blob(to, {tensor.numel()}, at::kFloat).copy_(Flat(tensor));
      to += tensor.numel();
    }
    return;
  }
  std::vector<float*> starts;
  for (const at::Tensor& tensor : tensors) {
    starts.push_back(to);
    to += tensor.numel();
  }
  ForEachPiece(tensors, [&](size_t, size_t i, const float* values, int64_t count) {
    const int64_t offset = values - tensors[i].data_ptr<float>();
    std::memcpy(starts[i] + offset, values, static_cast<size_t>(count) * sizeof(float));
  });
}

/// The rank's slices one behind another: into `flat`, or with `is_back` from it into the weights.
void CopySlices(const std::vector<Parameter>& parameters, const std::vector<ParameterSlice>& slices,
                const at::Tensor& flat, bool is_back) {
  int64_t offset = 0;
  for (const ParameterSlice& slice : slices) {
    const int64_t count = slice.end - slice.begin;
    const at::Tensor weights = Flat(parameters[slice.parameter].tensor).narrow(0, slice.begin, count);
    const at::Tensor part = flat.narrow(0, offset, count);
    is_back ? weights.copy_(part) : part.copy_(weights);
    offset += count;
  }
}

std::vector<at::Tensor> TensorsOf(const std::vector<Parameter>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const Parameter& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

}  // namespace

StateCopy::StateCopy(Gang& gang, const std::vector<Parameter>& parameters, const Adam& adam, bool is_sharded)
    : gang_(gang), parameters_(parameters), adam_(adam), is_sharded_(is_sharded), sizes_(SizesOf(parameters)) {}

void StateCopy::Take() {
  if (!gang_.is_first() && !is_sharded_) return;
  if (gang_.is_first() && !weights_.defined()) {
    const int64_t total = std::accumulate(sizes_.begin(), sizes_.end(), int64_t{0});
    // A GPU copies into pinned memory several times faster.
    const at::TensorOptions options = at::TensorOptions(at::kFloat).pinned_memory(parameters_.front().tensor.is_cuda());
    weights_ = at::empty({total}, options);
    exp_avgs_ = at::empty({total}, options);
    exp_avg_sqs_ = at::empty({total}, options);
    if (adam_.rounding() == Rounding::kWeights) masters_ = at::empty({total}, options);
  }
  if (gang_.is_first()) CopyFlat(TensorsOf(parameters_), weights_.data_ptr<float>());
  CopyStates(&Adam::State::exp_avg, exp_avgs_);
  CopyStates(&Adam::State::exp_avg_sq, exp_avg_sqs_);
  if (adam_.rounding() == Rounding::kWeights) CopyStates(&Adam::State::master, masters_);
}

void StateCopy::CopyStates(at::Tensor Adam::State::*member, const at::Tensor& to) {
  std::vector<at::Tensor> own;
  for (const Adam::State& state : adam_.states()) own.push_back(state.*member);
  if (!is_sharded_) return CopyFlat(own, to.data_ptr<float>());
  // A rank's part is contiguous in the order of all elements.
  int64_t begin = 0;
  for (int rank = 0; rank < gang_.world_size(); ++rank) {
    const int64_t count = CountOf(SlicesOfRank(sizes_, rank, gang_.world_size()));
    if (gang_.is_first() || gang_.rank() == rank) {
      const at::Tensor part = gang_.is_first() ? to.narrow(0, begin, count) : at::empty({count}, at::kFloat);
      if (gang_.rank() == rank) CopyFlat(own, part.data_ptr<float>());
      gang_.SendToFirst(part, rank);
    }
    begin += count;
  }
}

std::vector<NamedArray> StateCopy::ArraysOf(const std::string& prefix, const at::Tensor& flat) const {
  std::vector<NamedArray> arrays;
  if (!flat.defined()) return arrays;
  const float* next = flat.data_ptr<float>();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto size = static_cast<size_t>(sizes_[i]);
    arrays.push_back({prefix + parameters_[i].name, parameters_[i].tensor.sizes().vec(), {next, size}});
    next += size;
  }
  return arrays;
}

std::vector<NamedArray> StateCopy::ModelArrays() const { return ArraysOf("", weights_); }

std::vector<NamedArray> StateCopy::OptimizerArrays() const {
  std::vector<NamedArray> arrays = ArraysOf("exp_avg.", exp_avgs_);
  for (const auto& [prefix, flat] : {std::pair("exp_avg_sq.", exp_avg_sqs_), std::pair("master.", masters_)}) {
    const std::vector<NamedArray> more = ArraysOf(prefix, flat);
    arrays.insert(arrays.end(), more.begin(), more.end());
  }
  return arrays;
}

void LoadState(const VerifiedCheckpoint* checkpoint, Gang& gang, const std::vector<Parameter>& parameters,
               const Adam& adam) {
  std::optional<SafetensorsReader> model, optimizer;
  if (checkpoint != nullptr) {
    model.emplace(checkpoint->model_file);
    optimizer.emplace(checkpoint->optimizer_file);
  }
  auto state = adam.states().begin();  // In the order of the parameters; a rank has some of them.
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor weights = parameters[i].tensor.detach();
    const std::vector<int64_t> shape = weights.sizes().vec();
    if (model) {
      const at::Tensor host = HostOf(weights);
      model->Read(parameters[i].name, shape, Values(host));
      if (!host.is_same(weights)) weights.copy_(host);
    }
    gang.Broadcast({weights});
    const bool is_own = state != adam.states().end() && state->slice.parameter == i;
    for (const StatePart& part : kStateParts) {
      if (part.member == &Adam::State::master && adam.rounding() != Rounding::kWeights) continue;
      const at::Tensor whole = at::empty({weights.numel()}, at::kFloat);
      if (optimizer) optimizer->Read(part.prefix + parameters[i].name, shape, Values(whole));
      gang.Broadcast({whole});
      if (!is_own) continue;
      const at::Tensor& to = (*state).*part.member;
      to.copy_(whole.narrow(0, state->slice.begin, to.numel()));
    }
    if (is_own) ++state;
  }
}

void LoadWeights(InitialWeights* weights, Gang& gang, const std::vector<Parameter>& parameters) {
  for (const Parameter& parameter : parameters) {
    const at::Tensor tensor = parameter.tensor.detach();
    if (weights != nullptr) {
      const at::Tensor host = HostOf(tensor);
      weights->Read(parameter.name, tensor.sizes().vec(), Values(host));
      if (!host.is_same(tensor)) tensor.copy_(host);
    }
    gang.Broadcast({tensor});
  }
  if (weights != nullptr) weights->RequireAllRead();
}

void ShareWeights(Gang& gang, const std::vector<Parameter>& parameters) {
  const std::vector<int64_t> sizes = SizesOf(parameters);
  for (int rank = 0; rank < gang.world_size(); ++rank) {
    const std::vector<ParameterSlice> slices = SlicesOfRank(sizes, rank, gang.world_size());
    const at::Tensor flat = at::empty({CountOf(slices)}, parameters.front().tensor.options().requires_grad(false));
    if (gang.rank() == rank) CopySlices(parameters, slices, flat, /*is_back=*/false);
    gang.Broadcast({flat}, rank);
    if (gang.rank() != rank) CopySlices(parameters, slices, flat, /*is_back=*/true);
  }
}

}  // namespace normlab::trainer
