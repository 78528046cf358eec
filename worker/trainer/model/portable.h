#pragma once

#include <ATen/core/Tensor.h>

#include <array>

#include "worker/trainer/model/norm.h"

// What the model's own CPU kernels do, by LibTorch's operations on any device and in any floating-point type: the way
// of GPUs, and of bfloat16. Sums and norms are in float32 (float64 for float64) whatever the tensors hold.
namespace normlab::trainer {

/// Whether norm.h, causal_attention.h and the branches run their own kernels on such a tensor; else they go the
/// portable way.
bool HasOwnKernels(const at::Tensor& tensor);

/// While one lives, nothing has own kernels on this thread: lets tests judge the portable way on a CPU in float64.
class PortableOnly {
 public:
  PortableOnly();
  ~PortableOnly();
  PortableOnly(const PortableOnly&) = delete;
  PortableOnly& operator=(const PortableOnly&) = delete;

 private:
  bool before_;
};

namespace portable {

/// As AddAndNorm; without a residual the sum is its branch, and nothing is written to `result`.
NormResult RunNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& result, const SublayerStats& stats,
                   at::ScalarType output_type);
NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale);

/// Flash attention where the device and type have it. Query, key and value: [batch, heads, seq, head_dim].
struct Attended {
  std::array<at::Tensor, 3> inputs;  // As the operation saw them: rotated, and padded to a head size that it knows.
  at::Tensor output;                 // [batch, heads, seq, padded head_dim]
  at::Tensor logsumexp;
  std::array<at::Tensor, 4> random;  // What the operation wants back: nothing random, as there is no dropout.
  std::array<int64_t, 2> seq_max = {};
};
Attended Attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value);
/// Gradients by the three inputs before padding. grad: [batch, heads, seq, head_dim]
std::array<at::Tensor, 3> AttendBackward(const Attended& attended, const at::Tensor& grad);

/// silu(gate) * up of [tokens, 2 * dim], gate first.
at::Tensor SwiGlu(const at::Tensor& gate_up);
/// Turns gate_up into its gradient, and grad_activation into the activation, as the CPU kernel does.
void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& grad_activation);

/// Sum of the losses of some rows [rows, vocab], of those whose target is not kIgnoredTarget; float32 [].
/// With `grad_scale` ([], unless undefined) the logits become their gradients times it.
at::Tensor CrossEntropySum(at::Tensor logits, const at::Tensor& targets, const at::Tensor& grad_scale);

}  // namespace portable
}  // namespace normlab::trainer
