#include "worker/trainer/model/mlp.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "worker/trainer/model/autograd.h"
#include "worker/trainer/model/kernels/cpu_kernels.h"
#include "worker/trainer/model/portable.h"
#include "worker/trainer/model/rows.h"

namespace normlab::trainer {
namespace {

struct SwiGluSaved : BranchSaved {
  at::Tensor gate_up;  // [tokens, 2 * ffn_hidden]
};

}  // namespace

SwiGluBranch::SwiGluBranch(int64_t hidden, int64_t ffn_hidden, at::TensorOptions options)
    : gate_up_(at::empty({2 * ffn_hidden, hidden}, options)), down_(at::empty({hidden, ffn_hidden}, options)) {
  parameters_ = {Trainable(gate_up_.narrow(0, 0, ffn_hidden)), Trainable(gate_up_.narrow(0, ffn_hidden, ffn_hidden)),
                 Trainable(down_)};
}

at::Tensor SwiGluBranch::Forward(const BranchContext&, const at::Tensor& input,
                                 std::unique_ptr<BranchSaved>* saved) const {
  const int64_t ffn_hidden = down_.size(1);
  auto own = std::make_unique<SwiGluSaved>();
  own->gate_up = at::mm(input, gate_up_.t());
  if (!HasOwnKernels(input)) {
    const at::Tensor result = at::mm(portable::SwiGlu(own->gate_up), down_.t());
    *saved = std::move(own);
    return result;
  }
  const at::Tensor activation = at::empty({input.size(0), ffn_hidden}, input.options());
  WithElementType(input, [&]<typename T>(T) {
    const T* from = own->gate_up.const_data_ptr<T>();
    T* to = activation.mutable_data_ptr<T>();
    ForEachChunk(input.size(0), [&](int64_t, int64_t row, int64_t rows) {
      Kernels<T>().swiglu(
          {.rows = rows, .dim = ffn_hidden, .gate_up = from + row * 2 * ffn_hidden, .output = to + row * ffn_hidden});
    });
  });
  *saved = std::move(own);
  return at::mm(activation, down_.t());
}

BranchGradient SwiGluBranch::Backward(const BranchContext&, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                                      const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const {
  const int64_t ffn_hidden = down_.size(1);
  const at::Tensor grad_gate_up = static_cast<const SwiGluSaved&>(*saved).gate_up;
  // First the gradient by the activation, then (after the kernel) the activation itself.
  const at::Tensor activation = at::mm(grad_output, down_);  // [tokens, ffn_hidden]
  if (!HasOwnKernels(input)) {
    portable::SwiGluBackward(grad_gate_up, activation);
  } else {
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
  }
  const at::Tensor grad_down = at::mm(grad_output.t(), activation);
  const at::Tensor grad_weight = at::mm(grad_gate_up.t(), input);  // [2 * ffn_hidden, hidden]
  return {
      .input = add.defined() ? at::addmm(add, grad_gate_up, gate_up_, add_scale) : at::mm(grad_gate_up, gate_up_),
      .parameters = {grad_weight.narrow(0, 0, ffn_hidden), grad_weight.narrow(0, ffn_hidden, ffn_hidden), grad_down}};
}

double SwiGluBranch::FlopsPerToken(int64_t) const { return 6 * static_cast<double>(gate_up_.numel() + down_.numel()); }

}  // namespace normlab::trainer
