#include "worker/trainer/model/head.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "worker/trainer/model/autograd.h"
#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/portable.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

/// Rows of logits that are made at a time: few enough to stay in the cache, enough for a fast product.
int64_t LogitRows(int64_t vocab) {
  constexpr int64_t kLogitsMax = 1 << 20;
  return std::max<int64_t>(kChunkRows, kLogitsMax / vocab / kChunkRows * kChunkRows);
}

void CheckTargets(const at::Tensor& targets, int64_t tokens, int64_t vocab) {
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.is_contiguous() && targets.numel() == tokens,
              "targets must be one contiguous int64 per input token (", tokens, "), not ", targets.scalar_type(), " ",
              targets.sizes());
  const int64_t* begin = targets.const_data_ptr<int64_t>();
  const auto [low, high] = std::minmax_element(begin, begin + tokens);
  TORCH_CHECK(*low >= 0 && *high < vocab, "targets reach from ", *low, " to ", *high, ", the vocabulary has ", vocab,
              " tokens: is this another tokenizer's dataset?");
}

/// Sum of the losses of some rows. With wants_grad, `logits` become grad_scale times their gradient.
double CrossEntropySum(const at::Tensor& logits, const int64_t* targets, bool wants_grad, double grad_scale) {
  const int64_t vocab = logits.size(1);
  std::vector<double> sums(NumChunks(logits.size(0)));
  WithElementType(logits, [&]<typename T>(T) {
    T* data = logits.mutable_data_ptr<T>();
    ForEachChunk(logits.size(0), [&](int64_t chunk, int64_t row, int64_t rows) {
      Kernels<T>().cross_entropy({.rows = rows,
                                  .vocab = vocab,
                                  .logits = data + row * vocab,
                                  .targets = targets + row,
                                  .wants_grad = wants_grad,
                                  .grad_scale = static_cast<T>(grad_scale),
                                  .loss_sum = &sums[chunk]});
    });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

struct HeadSaved {
  at::Tensor x;
  at::Tensor inv_rms;      // Undefined without a norm.
  at::Tensor grad_normed;  // d loss / d (input of the projection), [tokens, hidden]
  at::Tensor grad_weight;  // d loss / d weight
};

/// The mean loss; with `saved`, the gradients of everything behind the norm.
double RunHead(const Head& head, const at::Tensor& x, const at::Tensor& targets, HeadSaved* saved) {
  const int64_t tokens = x.size(0);
  const int64_t vocab = head.weight.size(0);
  const int64_t step = std::min(LogitRows(vocab), tokens);
  const NormResult norm = head.norm ? ApplyNorm(*head.norm, x) : NormResult{.output = x};
  const at::Tensor logits = at::empty({step, vocab}, x.options());
  if (saved != nullptr) {
    *saved = {
        .x = x, .inv_rms = norm.inv_rms, .grad_normed = at::empty_like(x), .grad_weight = at::empty_like(head.weight)};
  }
  double loss_sum = 0;
  for (int64_t row = 0; row < tokens; row += step) {
    const int64_t rows = std::min(step, tokens - row);
    const at::Tensor input = norm.output.narrow(0, row, rows);
    at::Tensor some_logits = logits.narrow(0, 0, rows);
    at::mm_out(some_logits, input, head.weight.t());
    loss_sum += CrossEntropySum(some_logits, targets.const_data_ptr<int64_t>() + row, saved != nullptr,
                                1.0 / static_cast<double>(tokens));
    if (saved != nullptr) {
      at::Tensor grad_input = saved->grad_normed.narrow(0, row, rows);
      at::mm_out(grad_input, some_logits, head.weight);
      if (row == 0) {
        at::mm_out(saved->grad_weight, some_logits.t(), input);
      } else {
        saved->grad_weight.addmm_(some_logits.t(), input);
      }
    }
  }
  return loss_sum / static_cast<double>(tokens);
}

bool IsPortable(const Head& head, const at::Tensor& x) { return !HasOwnKernels(x) || !HasOwnKernels(head.weight); }

/// Rows of logits that exist at a time on a device: their float32 form has 256 MB, which keeps its processors busy.
int64_t PortableLogitRows(int64_t vocab) {
  constexpr int64_t kLogitsMax = 1 << 26;
  return std::max<int64_t>(kChunkRows, kLogitsMax / vocab / kChunkRows * kChunkRows);
}

/// As RunHead, over the tokens that count; stays on the device. The loss is in float32 (float64 for float64).
at::Tensor RunHeadPortably(const Head& head, const at::Tensor& x, const at::Tensor& targets, HeadSaved* saved) {
  const int64_t tokens = x.size(0), vocab = head.weight.size(0);
  const int64_t step = std::min(PortableLogitRows(vocab), tokens);
  const at::ScalarType sum_type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const NormResult norm = head.norm ? ApplyNorm(*head.norm, x) : NormResult{.output = x.to(head.weight.scalar_type())};
  const at::Tensor inverse = targets.ne(kIgnoredTarget).sum().clamp_min(1).to(sum_type).reciprocal();
  if (saved != nullptr) {
    *saved = {.x = x,
              .inv_rms = norm.inv_rms,
              .grad_normed = at::empty_like(norm.output),
              .grad_weight = at::zeros(head.weight.sizes(), head.weight.options().dtype(sum_type))};
  }
  at::Tensor loss = at::zeros({}, x.options().dtype(sum_type));
  for (int64_t row = 0; row < tokens; row += step) {
    const int64_t rows = std::min(step, tokens - row);
    const at::Tensor input = norm.output.narrow(0, row, rows);
    const at::Tensor logits = at::mm(input, head.weight.t());
    loss.add_(
        portable::CrossEntropySum(logits, targets.narrow(0, row, rows), saved != nullptr ? inverse : at::Tensor()));
    if (saved == nullptr) continue;
    at::Tensor grad_input = saved->grad_normed.narrow(0, row, rows);
    at::mm_out(grad_input, logits, head.weight);
    saved->grad_weight.add_(at::mm(logits.t(), input));
  }
  return loss.mul_(inverse);
}

struct HeadNode : torch::autograd::Node {
  std::optional<Norm> norm;
  HeadSaved saved;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    CheckFirstBackward(saved.x.defined());
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    HeadSaved used = std::exchange(saved, {});
    if (!HasOwnKernels(used.grad_normed)) {
      // No waiting for the device.
      used.grad_normed.mul_(grads[0]);
      used.grad_weight.mul_(grads[0]);
    } else if (const double scale = grads[0].item<double>(); scale != 1) {
      used.grad_normed.mul_(scale);
      used.grad_weight.mul_(scale);
    }
    if (!norm) return {used.grad_normed.to(used.x.scalar_type()), used.grad_weight};
    NormGradient norm_gradient = NormBackward(*norm, used.grad_normed, used.x, used.inv_rms);
    torch::autograd::variable_list gradients = {norm_gradient.x, used.grad_weight};
    std::move(norm_gradient.parameters.begin(), norm_gradient.parameters.end(), std::back_inserter(gradients));
    return gradients;
  }

  void release_variables() override { saved = {}; }
};

/// The loss where every token has a target; or, without own kernels, with targets that do not count.
at::Tensor FullLoss(const Head& head, const at::Tensor& x, const at::Tensor& targets) {
  const bool is_portable = IsPortable(head, x);
  if (!is_portable) CheckTargets(targets, x.size(0), head.weight.size(0));
  const bool wants_grad = torch::autograd::compute_requires_grad(x, head.trainable_weight);
  HeadSaved saved;
  at::Tensor loss;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    HeadSaved* const wanted = wants_grad ? &saved : nullptr;
    loss = is_portable ? RunHeadPortably(head, x, targets, wanted)
                       : at::scalar_tensor(RunHead(head, x, targets, wanted), x.options());
  }
  if (!wants_grad) return loss;
  auto node = MakeNode<HeadNode>();
  node->norm = head.norm;
  node->saved = std::move(saved);
  torch::autograd::edge_list edges = {torch::autograd::impl::gradient_edge(x),
                                      torch::autograd::impl::gradient_edge(head.trainable_weight)};
  for (const at::Tensor& parameter : head.trainable_norm) {
    edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(loss, node);
  return loss;
}

}  // namespace

at::Tensor HeadLoss(const Head& head, const at::Tensor& x, const at::Tensor& targets) {
  if (IsPortable(head, x)) return FullLoss(head, x, targets);
  const int64_t* begin = targets.const_data_ptr<int64_t>();
  std::vector<int64_t> counted;
  for (int64_t i = 0; i < targets.numel(); ++i) {
    if (begin[i] != kIgnoredTarget) counted.push_back(i);
  }
  if (static_cast<int64_t>(counted.size()) == targets.numel()) return FullLoss(head, x, targets);
  // One token with weight 0 gives every parameter its gradient of zeros, which all ranks must have.
  if (counted.empty()) return FullLoss(head, x.narrow(0, 0, 1), at::zeros({1}, at::kLong)).mul(0);
  const at::Tensor rows = at::tensor(counted, at::kLong);
  return FullLoss(head, x.index_select(0, rows), targets.index_select(0, rows));
}

at::Tensor HeadLogits(const Head& head, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return at::mm(head.norm ? ApplyNorm(*head.norm, x).output : x.to(head.weight.scalar_type()), head.weight.t());
}

}  // namespace normlab::trainer
