#include "worker/trainer/model/ops.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "worker/trainer/model/ops_signatures.h"

namespace normlab::trainer::ops {
namespace {

TORCH_LIBRARY(normlab, library) {
  library.def(
      "residual_norm(Tensor? residual, Tensor branch, Tensor? branch_gain, Tensor(a!)? sum, float residual_scale, "
      "float branch_scale, float sum_scale, bool rounds_sum, int kind, Tensor? gain, Tensor? bias, Tensor? alpha, "
      "float output_scale, float eps, ScalarType output_type, bool wants_branch_stats, bool wants_stream_stats) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "norm_backward(Tensor grad_output, Tensor x, Tensor? inv_rms, int kind, Tensor gain, Tensor? bias, Tensor? "
      "alpha, float output_scale, Tensor? add, float add_scale) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("column_products(Tensor a, Tensor b) -> Tensor");
  library.def("swiglu(Tensor gate_up) -> Tensor");
  library.def("swiglu_backward(Tensor(a!) gate_up, Tensor(b!) grad_output) -> ()");
  library.def("cross_entropy(Tensor(a!) logits, Tensor targets, Tensor? grad_scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(normlab, CompositeExplicitAutograd, library) { Register(library, Composite()); }

template <typename Signature>
c10::TypedOperatorHandle<Signature> Find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalTensor OrNone(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor.contiguous()) : std::nullopt;
}

}  // namespace

ResidualNormResult ResidualNorm(const Norm* norm, const ResidualSum& sum, const at::Tensor& sum_result,
                                at::ScalarType output_type, bool wants_branch_stats, bool wants_stream_stats) {
  static const auto op = Find<ResidualNormFunction>("normlab::residual_norm");
  TORCH_CHECK(!sum_result.defined() || sum_result.is_contiguous(), "the sum is written to memory with gaps, strides ",
              sum_result.strides());
  const Norm none, &n = norm != nullptr ? *norm : none;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  ResidualNormResult result;
  std::tie(result.norm.output, result.norm.inv_rms, result.branch_stats, result.stream_stats) = op.call(
      OrNone(sum.residual), sum.branch.contiguous(), OrNone(sum.branch_gain), OrNone(sum_result), sum.residual_scale,
      sum.branch_scale, sum.sum_scale, sum.is_rounded, static_cast<int64_t>(n.kind), OrNone(n.gain), OrNone(n.bias),
      OrNone(n.alpha), n.output_scale, n.eps, output_type, wants_branch_stats, wants_stream_stats);
  return result;
}

NormGradient NormBackward(const Norm& norm, const at::Tensor& grad_output, const at::Tensor& x,
                          const at::Tensor& inv_rms, const at::Tensor& add, double add_scale) {
  static const auto op = Find<NormBackwardFunction>("normlab::norm_backward");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto [grad_x, grad_gain, grad_bias, grad_alpha] =
      op.call(grad_output.contiguous(), x.contiguous(), OrNone(inv_rms), static_cast<int64_t>(norm.kind), norm.gain,
              OrNone(norm.bias), OrNone(norm.alpha), norm.output_scale, OrNone(add), add_scale);
  NormGradient gradient = {.x = grad_x, .parameters = {grad_gain}};
  if (norm.bias.defined()) gradient.parameters.push_back(grad_bias);
  if (norm.alpha.defined()) gradient.parameters.push_back(grad_alpha);
  return gradient;
}

at::Tensor ColumnProducts(const at::Tensor& a, const at::Tensor& b) {
  static const auto op = Find<ColumnProductsFunction>("normlab::column_products");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return op.call(a.contiguous(), b.contiguous());
}

at::Tensor SwiGlu(const at::Tensor& gate_up) {
  static const auto op = Find<SwiGluFunction>("normlab::swiglu");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return op.call(gate_up.contiguous());
}

void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& grad_output) {
  static const auto op = Find<SwiGluBackwardFunction>("normlab::swiglu_backward");
  TORCH_CHECK(gate_up.is_contiguous() && grad_output.is_contiguous(),
              "SwiGLU's gradient is written to memory with gaps, strides ", gate_up.strides(), " and ",
              grad_output.strides());
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  op.call(gate_up, grad_output);
}

at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& grad_scale) {
  static const auto op = Find<CrossEntropyFunction>("normlab::cross_entropy");
  TORCH_CHECK(logits.is_contiguous(), "the logits' gradient is written to memory with gaps, strides ",
              logits.strides());
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return op.call(logits, targets.contiguous(), OrNone(grad_scale));
}

}  // namespace normlab::trainer::ops
