#include "worker/trainer/model/causal_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

template <typename T>
AttentionHeads<T> HeadsOf(const RotaryTable& rotary, const CausalAttention& attention) {
  return {.seq = rotary.cosine.size(0),
          .heads = attention.logsumexp.size(1),
          .head_dim = 2 * rotary.cosine.size(1),
          .cosine = rotary.cosine.const_data_ptr<T>(),
          .sine = rotary.sine.const_data_ptr<T>(),
          .qkv = attention.qkv.const_data_ptr<T>(),
          .context = attention.context.mutable_data_ptr<T>(),
          .logsumexp = attention.logsumexp.mutable_data_ptr<T>()};
}

/// Calls function(first, count, scratch) for ranges of heads, from several threads.
template <typename T, typename Function>
void ForHeads(const RotaryTable& rotary, const CausalAttention& attention, const Function& function) {
  const int64_t scratch_size = AttentionScratchSize(rotary.cosine.size(0), 2 * rotary.cosine.size(1));
  const int64_t all_heads = attention.logsumexp.size(0) * attention.logsumexp.size(1);
  at::parallel_for(0, all_heads, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({scratch_size}, attention.qkv.options());
    function(begin, end - begin, scratch.mutable_data_ptr<T>());
  });
}

/// (a, b) to (a cos - b sin, b cos + a sin) for the halves of each head; with direction -1 the inverse. x: [batch,
/// heads, seq, head_dim]
at::Tensor Rotate(const at::Tensor& x, const RotaryTable& rotary, double direction) {
  const int64_t half = rotary.cosine.size(1);
  const at::Tensor a = x.narrow(3, 0, half), b = x.narrow(3, half, half), sine = rotary.sine * direction;
  return at::cat({a * rotary.cosine - b * sine, b * rotary.cosine + a * sine}, 3).to(x.scalar_type());
}

CausalAttention AttendPortably(const RotaryTable& rotary, int64_t num_heads, const at::Tensor& qkv) {
  const int64_t seq = rotary.cosine.size(0), head_dim = 2 * rotary.cosine.size(1);
  const at::Tensor heads = qkv.view({-1, seq, 3, num_heads, head_dim}).permute({2, 0, 3, 1, 4});
  CausalAttention attention = {
      .attended = portable::Attend(Rotate(heads[0], rotary, 1), Rotate(heads[1], rotary, 1), heads[2])};
  attention.context = attention.attended.output.narrow(3, 0, head_dim).transpose(1, 2).reshape({qkv.size(0), -1});
  return attention;
}

at::Tensor AttendPortablyBackward(const RotaryTable& rotary, const CausalAttention& saved,
                                  const at::Tensor& grad_context) {
  const int64_t seq = rotary.cosine.size(0), head_dim = 2 * rotary.cosine.size(1), tokens = grad_context.size(0);
  const at::Tensor grad = grad_context.view({-1, seq, grad_context.size(1) / head_dim, head_dim}).transpose(1, 2);
  const auto [grad_query, grad_key, grad_value] = portable::AttendBackward(saved.attended, grad);
  const auto flat = [&](const at::Tensor& heads) { return heads.transpose(1, 2).reshape({tokens, -1}); };
  return at::cat({flat(Rotate(grad_query, rotary, -1)), flat(Rotate(grad_key, rotary, -1)), flat(grad_value)}, 1);
}

}  // namespace

RotaryTable MakeRotaryTable(int64_t seq, int64_t head_dim, double base, at::TensorOptions options) {
  const int64_t half = head_dim / 2;
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat;
  RotaryTable table = {.cosine = at::empty({seq, half}, type), .sine = at::empty({seq, half}, type)};
  WithElementType(table.cosine, [&]<typename T>(T) {
    T* cosine = table.cosine.mutable_data_ptr<T>();
    T* sine = table.sine.mutable_data_ptr<T>();
    for (int64_t i = 0; i < half; ++i) {
      const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      for (int64_t position = 0; position < seq; ++position) {
        const double angle = static_cast<double>(position) * frequency;
        cosine[position * half + i] = static_cast<T>(std::cos(angle));
        sine[position * half + i] = static_cast<T>(std::sin(angle));
      }
    }
  });
  return {.cosine = table.cosine.to(options.device()), .sine = table.sine.to(options.device())};
}

CausalAttention ApplyCausalAttention(const RotaryTable& rotary, int64_t num_heads, const at::Tensor& qkv) {
  if (!HasOwnKernels(qkv)) return AttendPortably(rotary, num_heads, qkv);
  const int64_t seq = rotary.cosine.size(0), tokens = qkv.size(0);
  const CausalAttention attention = {.qkv = qkv,
                                     .context = at::empty({tokens, qkv.size(1) / 3}, qkv.options()),
                                     .logsumexp = at::empty({tokens / seq, num_heads, seq}, qkv.options())};
  WithElementType(qkv, [&]<typename T>(T) {
    const AttentionHeads<T> all = HeadsOf<T>(rotary, attention);
    ForHeads<T>(rotary, attention, [&](int64_t first, int64_t count, T* scratch) {
      AttentionHeads<T> part = all;
      part.first = first;
      part.count = count;
      part.scratch = scratch;
      Kernels<T>().attention(part);
    });
  });
  return attention;
}

at::Tensor CausalAttentionBackward(const RotaryTable& rotary, const CausalAttention& saved,
                                   const at::Tensor& grad_context) {
  if (!saved.qkv.defined()) return AttendPortablyBackward(rotary, saved, grad_context);
  const at::Tensor grad_qkv = at::empty_like(saved.qkv);  // [tokens, 3 * hidden]
  WithElementType(grad_qkv, [&]<typename T>(T) {
    const AttentionGradHeads<T> all = {.forward = HeadsOf<T>(rotary, saved),
                                       .grad_context = grad_context.const_data_ptr<T>(),
                                       .grad_qkv = grad_qkv.mutable_data_ptr<T>()};
    ForHeads<T>(rotary, saved, [&](int64_t first, int64_t count, T* scratch) {
      AttentionGradHeads<T> part = all;
      part.forward.first = first;
      part.forward.count = count;
      part.forward.scratch = scratch;
      Kernels<T>().attention_grad(part);
    });
  });
  return grad_qkv;
}

}  // namespace normlab::trainer
