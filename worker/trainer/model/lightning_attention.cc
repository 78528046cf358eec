#include "worker/trainer/model/lightning_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace normlab::trainer {
namespace {

/// The decay of a chunk that is shorter than the one it was made for.
LightningDecay Shortened(const LightningDecay& decay, int64_t chunk) {
  const int64_t full = decay.mask.size(1);
  return {.mask = decay.mask.narrow(1, 0, chunk).narrow(2, 0, chunk),
          .rows = decay.rows.narrow(1, 0, chunk),
          .columns = decay.columns.narrow(1, full - chunk, chunk)};
}

int64_t ChunkOf(const LightningDecay& decay, int64_t seq) { return std::min(decay.mask.size(1), seq); }

/// [batch, heads, seq, head_dim] to [batch, heads, chunks, chunk, head_dim], contiguous, with zeros behind the end.
at::Tensor Chunked(const at::Tensor& x, int64_t chunk) {
  const int64_t batch = x.size(0), heads = x.size(1), seq = x.size(2), head_dim = x.size(3);
  const int64_t chunks = (seq + chunk - 1) / chunk;
  if (chunks * chunk == seq) return x.contiguous().view({batch, heads, chunks, chunk, head_dim});
  const at::Tensor padded = at::zeros({batch, heads, chunks * chunk, head_dim}, x.options());
  padded.narrow(2, 0, seq).copy_(x);
  return padded.view({batch, heads, chunks, chunk, head_dim});
}

at::Tensor Unchunked(const at::Tensor& x, int64_t seq) { return x.flatten(2, 3).narrow(2, 0, seq); }

/// One matrix per chunk, for bmm.
at::Tensor Matrices(const at::Tensor& x) { return x.flatten(0, 2); }

/// [heads, rows, columns] beside [batch, heads, chunks, rows, columns].
at::Tensor PerHead(const at::Tensor& x) { return x.unsqueeze(1); }

/// (q k') * D of every chunk, [batch * heads * chunks, chunk, chunk].
at::Tensor Masked(const LightningDecay& decay, const at::Tensor& like, const at::Tensor& left,
                  const at::Tensor& right) {
  const at::Tensor scores = at::bmm(Matrices(left), Matrices(right).transpose(1, 2));
  const int64_t chunk = like.size(3);
  scores.view({like.size(0), like.size(1), like.size(2), chunk, chunk}).mul_(PerHead(decay.mask));
  return scores;
}

/// The factor of a state over one chunk, [heads, 1, 1].
at::Tensor ChunkDecay(const LightningDecay& decay) { return decay.rows.narrow(1, decay.rows.size(1) - 1, 1); }

/// S before each chunk: S_0 = 0, S_n = exp(-s C) S_{n-1} + sum_c exp(-s (C - c)) k_c v_c' over chunk n-1.
at::Tensor States(const LightningDecay& decay, const at::Tensor& key, const at::Tensor& value) {
  const int64_t batch = key.size(0), heads = key.size(1), chunks = key.size(2), head_dim = key.size(4);
  const at::Tensor added = at::bmm(Matrices(key * PerHead(decay.columns)).transpose(1, 2), Matrices(value))
                               .view({batch, heads, chunks, head_dim, head_dim});
  const at::Tensor states = at::empty_like(added);
  states.select(2, 0).zero_();
  const at::Tensor factor = ChunkDecay(decay);
  for (int64_t n = 1; n < chunks; ++n) {
    states.select(2, n).copy_(added.select(2, n - 1)).addcmul_(states.select(2, n - 1), factor);
  }
  return states;
}

/// Gradient by the state behind each chunk, from `direct`, the gradient by the state before each chunk as far as that
/// chunk's own output reads it: R_n = exp(-s C) R_{n+1} + direct_{n+1}, and 0 behind the last.
at::Tensor StateGradients(const LightningDecay& decay, const at::Tensor& direct) {
  const at::Tensor gradients = at::empty_like(direct);
  const int64_t chunks = direct.size(2);
  gradients.select(2, chunks - 1).zero_();
  const at::Tensor factor = ChunkDecay(decay);
  for (int64_t n = chunks - 1; n-- > 0;) {
    gradients.select(2, n).copy_(direct.select(2, n + 1)).addcmul_(gradients.select(2, n + 1), factor);
  }
  return gradients;
}

}  // namespace

std::vector<double> LightningSlopes(int64_t num_heads, int layer0, int num_layers) {
  const double depth = num_layers > 1 ? static_cast<double>(layer0) / (num_layers - 1) : 0;
  std::vector<double> slopes;
  for (int64_t h = 1; h <= num_heads; ++h) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(num_heads)) * (1 - depth + 1e-5));
  }
  return slopes;
}

LightningDecay MakeLightningDecay(const std::vector<double>& slopes, int64_t chunk, at::ScalarType dtype) {
  const auto heads = static_cast<int64_t>(slopes.size());
  const at::Tensor mask = at::zeros({heads, chunk, chunk}, at::kDouble);
  const at::Tensor rows = at::empty({heads, chunk, 1}, at::kDouble), columns = at::empty_like(rows);
  for (int64_t h = 0; h < heads; ++h) {
    double* head_mask = mask.mutable_data_ptr<double>() + h * chunk * chunk;
    for (int64_t r = 0; r < chunk; ++r) {
      for (int64_t c = 0; c <= r; ++c) head_mask[r * chunk + c] = std::exp(-slopes[h] * static_cast<double>(r - c));
      rows.mutable_data_ptr<double>()[h * chunk + r] = std::exp(-slopes[h] * static_cast<double>(r + 1));
      columns.mutable_data_ptr<double>()[h * chunk + r] = std::exp(-slopes[h] * static_cast<double>(chunk - 1 - r));
    }
  }
  return {.mask = mask.to(dtype), .rows = rows.to(dtype), .columns = columns.to(dtype)};
}

at::Tensor LightningForward(const LightningDecay& decay_of_full, const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, LightningSaved* saved) {
  const int64_t seq = query.size(2), chunk = ChunkOf(decay_of_full, seq);
  const LightningDecay decay = Shortened(decay_of_full, chunk);
  *saved = {.query = Chunked(query, chunk), .key = Chunked(key, chunk), .value = Chunked(value, chunk)};
  at::Tensor output = at::bmm(Masked(decay, saved->query, saved->query, saved->key), Matrices(saved->value));
  if (saved->query.size(2) > 1) {
    saved->states = States(decay, saved->key, saved->value);
    output.baddbmm_(Matrices(saved->query * PerHead(decay.rows)), Matrices(saved->states));
  }
  return Unchunked(output.view(saved->query.sizes()), seq);
}

LightningGradient LightningBackward(const LightningDecay& decay_of_full, const LightningSaved& saved,
                                    const at::Tensor& grad_output) {
  const int64_t seq = grad_output.size(2), chunk = ChunkOf(decay_of_full, seq);
  const LightningDecay decay = Shortened(decay_of_full, chunk);
  const at::Tensor grad = Chunked(grad_output, chunk);
  const at::Tensor scores = Masked(decay, saved.query, saved.query, saved.key);
  const at::Tensor grad_scores = Masked(decay, grad, grad, saved.value);
  at::Tensor grad_query = at::bmm(grad_scores, Matrices(saved.key)).view(grad.sizes());
  at::Tensor grad_key = at::bmm(grad_scores.transpose(1, 2), Matrices(saved.query)).view(grad.sizes());
  at::Tensor grad_value = at::bmm(scores.transpose(1, 2), Matrices(grad)).view(grad.sizes());
  if (saved.states.defined()) {
    const at::Tensor rows = PerHead(decay.rows), columns = PerHead(decay.columns);
    const at::Tensor direct =
        at::bmm(Matrices(saved.query * rows).transpose(1, 2), Matrices(grad)).view(saved.states.sizes());
    const at::Tensor behind = StateGradients(decay, direct);
    const auto add_product = [](at::Tensor& to, const at::Tensor& factor, const at::Tensor& left,
                                const at::Tensor& right) {
      to.addcmul_(at::bmm(Matrices(left), right).view(to.sizes()), factor);
    };
    add_product(grad_query, rows, grad, Matrices(saved.states).transpose(1, 2));
    add_product(grad_key, columns, saved.value, Matrices(behind).transpose(1, 2));
    add_product(grad_value, columns, saved.key, Matrices(behind));
  }
  return {.query = Unchunked(grad_query, seq), .key = Unchunked(grad_key, seq), .value = Unchunked(grad_value, seq)};
}

}  // namespace normlab::trainer
