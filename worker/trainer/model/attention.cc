#include "worker/trainer/model/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include <cmath>

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

/// query (0), key (1) or value (2) of [tokens, 3 * hidden], as [batch, heads, seq, head_dim].
at::Tensor Part(const at::Tensor& qkv, int64_t which, int64_t seq, int64_t num_heads) {
  return qkv.view({-1, seq, 3, num_heads, qkv.size(1) / (3 * num_heads)}).select(2, which).transpose(1, 2);
}

template <typename T>
RotateRows<T> RotationOf(const at::Tensor& qkv, const RotaryTable& rotary, int64_t num_heads) {
  return {.seq = rotary.cosine.size(0),
          .heads = num_heads,
          .head_dim = 2 * rotary.cosine.size(1),
          .cosine = rotary.cosine.const_data_ptr<T>(),
          .sine = rotary.sine.const_data_ptr<T>(),
          .qkv = qkv.mutable_data_ptr<T>()};
}

}  // namespace

RotaryTable MakeRotaryTable(int64_t seq, int64_t head_dim, double base, at::ScalarType dtype) {
  const int64_t half = head_dim / 2;
  RotaryTable table = {.cosine = at::empty({seq, half}, dtype), .sine = at::empty({seq, half}, dtype)};
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
  return table;
}

at::Tensor AttentionForward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                            AttentionSaved* saved) {
  const int64_t seq = rotary.cosine.size(0);
  const at::Tensor qkv = at::mm(input, weights.qkv.t());  // [tokens, 3 * hidden]
  WithElementType(qkv, [&]<typename T>(T) {
    const RotateRows<T> all = RotationOf<T>(qkv, rotary, weights.num_heads);
    ForEachChunk(qkv.size(0), [&](int64_t, int64_t row, int64_t rows) {
      RotateRows<T> part = all;
      part.first_row = row;
      part.rows = rows;
      Kernels<T>().rotate(part);
    });
  });
  auto [context, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
      Part(qkv, 0, seq, weights.num_heads), Part(qkv, 1, seq, weights.num_heads), Part(qkv, 2, seq, weights.num_heads),
      /*dropout_p=*/0, /*is_causal=*/true);
  const at::Tensor flat_context = context.transpose(1, 2).reshape(input.sizes());
  if (saved != nullptr) *saved = {.qkv = qkv, .context = flat_context, .logsumexp = logsumexp};
  return at::mm(flat_context, weights.output.t());
}

AttentionGradient AttentionBackward(const AttentionWeights& weights, const RotaryTable& rotary, const at::Tensor& input,
                                    const AttentionSaved& saved, const at::Tensor& grad_output, const at::Tensor& add,
                                    double add_scale) {
  const int64_t seq = rotary.cosine.size(0);
  const int64_t heads = weights.num_heads;
  const auto by_head = [&](const at::Tensor& flat) {  // [batch, heads, seq, head_dim]
    return flat.view({-1, seq, heads, flat.size(1) / heads}).transpose(1, 2);
  };
  AttentionGradient gradient;
  gradient.output = at::mm(grad_output.t(), saved.context);
  const at::Tensor grad_context = at::mm(grad_output, weights.output);  // [tokens, hidden]
  auto [grad_query, grad_key, grad_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      by_head(grad_context), Part(saved.qkv, 0, seq, heads), Part(saved.qkv, 1, seq, heads),
      Part(saved.qkv, 2, seq, heads), by_head(saved.context), saved.logsumexp, /*dropout_p=*/0, /*is_causal=*/true);
  // [batch, heads, seq, head_dim] with each token's heads together in memory; contiguous() copies only if that changes.
  grad_query = grad_query.transpose(1, 2).contiguous();
  grad_key = grad_key.transpose(1, 2).contiguous();
  grad_value = grad_value.transpose(1, 2).contiguous();
  const at::Tensor grad_qkv = at::empty_like(saved.qkv);
  WithElementType(grad_qkv, [&]<typename T>(T) {
    const UnrotateRows<T> all = {.to = RotationOf<T>(grad_qkv, rotary, heads),
                                 .grad_query = grad_query.const_data_ptr<T>(),
                                 .grad_key = grad_key.const_data_ptr<T>(),
                                 .grad_value = grad_value.const_data_ptr<T>()};
    ForEachChunk(grad_qkv.size(0), [&](int64_t, int64_t row, int64_t rows) {
      UnrotateRows<T> part = all;
      part.to.first_row = row;
      part.to.rows = rows;
      Kernels<T>().unrotate(part);
    });
  });
  gradient.qkv = at::mm(grad_qkv.t(), input);
  gradient.input = add.defined() ? at::addmm(add, grad_qkv, weights.qkv, add_scale) : at::mm(grad_qkv, weights.qkv);
  return gradient;
}

}  // namespace normlab::trainer
