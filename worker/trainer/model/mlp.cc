#include "worker/trainer/model/mlp.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {

at::Tensor MlpForward(const MlpWeights& weights, const at::Tensor& input, MlpSaved* saved) {
  const int64_t ffn_hidden = weights.down.size(1);
  const at::Tensor gate_up = at::mm(input, weights.gate_up.t());  // [tokens, 2 * ffn_hidden]
  const at::Tensor activation = at::empty({input.size(0), ffn_hidden}, input.options());
  WithElementType(input, [&]<typename T>(T) {
    const T* from = gate_up.const_data_ptr<T>();
    T* to = activation.mutable_data_ptr<T>();
    ForEachChunk(input.size(0), [&](int64_t, int64_t row, int64_t rows) {
      Kernels<T>().swiglu(
          {.rows = rows, .dim = ffn_hidden, .gate_up = from + row * 2 * ffn_hidden, .output = to + row * ffn_hidden});
    });
  });
  if (saved != nullptr) saved->gate_up = gate_up;
  return at::mm(activation, weights.down.t());
}

MlpGradient MlpBackward(const MlpWeights& weights, const at::Tensor& input, MlpSaved saved,
                        const at::Tensor& grad_output, const at::Tensor& add, double add_scale) {
  const int64_t ffn_hidden = weights.down.size(1);
  const at::Tensor grad_gate_up = saved.gate_up;
  // First the gradient by the activation, then (after the kernel) the activation itself.
  const at::Tensor activation = at::mm(grad_output, weights.down);  // [tokens, ffn_hidden]
  WithElementType(input, [&]<typename T>(T) {
    T* gate_up = grad_gate_up.mutable_data_ptr<T>();
    T* output = activation.mutable_data_ptr<T>();
    ForEachChunk(input.size(0), [&](int64_t, int64_t row, int64_t rows) {
      Kernels<T>().swiglu_grad({.rows = rows,
                                .dim = ffn_hidden,
                                .gate_up = gate_up + row * 2 * ffn_hidden,
                                .output = output + row * ffn_hidden});
    });
  });
  MlpGradient gradient;
  gradient.down = at::mm(grad_output.t(), activation);
  gradient.gate_up = at::mm(grad_gate_up.t(), input);
  gradient.input =
      add.defined() ? at::addmm(add, grad_gate_up, weights.gate_up, add_scale) : at::mm(grad_gate_up, weights.gate_up);
  return gradient;
}

}  // namespace normlab::trainer
