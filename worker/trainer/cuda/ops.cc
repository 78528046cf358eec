// The operators of model/ops.h on a GPU: types and shapes are looked at here, once, and the kernels started on the
// current stream. What no kernel knows is refused with its numbers.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "worker/trainer/cuda/launch.h"
#include "worker/trainer/model/ops_signatures.h"

namespace normlab::trainer::cuda {
namespace {

using ops::NormGradientTensors;
using ops::OptionalTensor;
using ops::ResidualNormTensors;

template <typename T>
constexpr at::ScalarType kTypeOf = sizeof(T) == sizeof(float) ? at::kFloat : at::kBFloat16;

template <typename T>
T* DataOf(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

/// Of a tensor that must be of type T, contiguous and on the device of `like`.
template <typename T>
const T* InputOf(const OptionalTensor& tensor, const at::Tensor& like, const char* name) {
  if (!tensor) return nullptr;
  TORCH_CHECK(tensor->scalar_type() == kTypeOf<T> && tensor->device() == like.device() && tensor->is_contiguous(),
              "normlab's CUDA kernels: ", name, " is ", tensor->scalar_type(), " ", tensor->sizes(), " on ",
              tensor->device(), " with strides ", tensor->strides(), ", but must be contiguous ", kTypeOf<T>, " on ",
              like.device());
  return static_cast<const T*>(tensor->const_data_ptr());
}

void CheckRows(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) >= 1 && x.size(1) <= kWidthMax, "normlab's CUDA kernels hold rows of 1 to ",
              kWidthMax, " elements, not ", x.sizes(),
              "; without libnormlab_cuda.so LibTorch's own operations take any");
}

int NumMultiprocessors(const at::Tensor& x) {
  int count = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, x.get_device()));
  return count;
}

at::Tensor EmptyFloats(at::IntArrayRef shape, const at::Tensor& like) {
  return at::empty(shape, like.options().dtype(at::kFloat));
}

at::Tensor EmptyStats(bool is_wanted, const at::Tensor& x) {
  return is_wanted ? EmptyFloats({x.size(0), kRowStats}, x) : at::Tensor();
}

/// The parts' sums, [width].
at::Tensor SumOf(const at::Tensor& parts) {
  const at::Tensor sums = EmptyFloats({parts.size(1)}, parts);
  C10_CUDA_CHECK(Launch(SumParts<float>{.num_parts = static_cast<int>(parts.size(0)),
                                        .width = static_cast<int>(parts.size(1)),
                                        .parts = DataOf<float>(parts),
                                        .sums = DataOf<float>(sums)},
                        c10::cuda::getCurrentCUDAStream()));
  return sums;
}

struct NormTypes {
  at::ScalarType branch, stream, output;
};

/// Calls function(TBranch{}, TStream{}, TOutput{}).
template <typename Function>
void WithForwardTypes(const NormTypes& types, const Function& function) {
  const auto is = [&](at::ScalarType branch, at::ScalarType stream, at::ScalarType output) {
    return types.branch == branch && types.stream == stream && types.output == output;
  };
  if (is(at::kFloat, at::kFloat, at::kFloat)) return function(float{}, float{}, float{});
  if (is(at::kBFloat16, at::kBFloat16, at::kBFloat16)) return function(Bfloat16{}, Bfloat16{}, Bfloat16{});
  if (is(at::kBFloat16, at::kFloat, at::kBFloat16)) return function(Bfloat16{}, float{}, Bfloat16{});
  if (is(at::kBFloat16, at::kFloat, at::kFloat)) return function(Bfloat16{}, float{}, float{});
  TORCH_CHECK(false, "normlab's CUDA kernels know no norm with weights in ", types.branch, ", stream in ", types.stream,
              " and output in ", types.output,
              ": all float32, all bfloat16, or bfloat16 weights with a float32 stream");
}

ResidualNormTensors ResidualNormOp(const OptionalTensor& residual, const at::Tensor& branch,
                                   const OptionalTensor& branch_gain, const OptionalTensor& sum, double residual_scale,
                                   double branch_scale, double sum_scale, bool rounds_sum, int64_t kind,
                                   const OptionalTensor& gain, const OptionalTensor& bias, const OptionalTensor& alpha,
                                   double output_scale, double eps, at::ScalarType output_type, bool wants_branch_stats,
                                   bool wants_stream_stats) {
  CheckRows(branch);
  const c10::cuda::CUDAGuard guard(branch.device());
  const int64_t rows = branch.size(0);
  const auto formula = static_cast<NormFormula>(kind);
  NormTypes types = {.branch = gain ? gain->scalar_type() : branch.scalar_type(),
                     .stream = residual ? sum->scalar_type() : branch.scalar_type(),
                     .output = output_type};
  if (!gain) types.output = types.branch;
  // A residual that a norm made has the type of branches. This costs a pass more, under the schemes that read it there.
  const OptionalTensor stream_residual = residual ? OptionalTensor(residual->to(types.stream)) : std::nullopt;
  at::Tensor output, inv_rms;
  if (gain) {
    output = at::empty(branch.sizes(), branch.options().dtype(output_type));
    if (formula != NormFormula::kDyt) inv_rms = EmptyFloats({rows}, branch);
  }
  const at::Tensor branch_stats = EmptyStats(wants_branch_stats && residual, branch);
  const at::Tensor stream_stats = EmptyStats(wants_stream_stats, branch);
  const ResidualNormTensors result = {output, inv_rms, branch_stats, stream_stats};
  if (rows == 0) return result;
  WithForwardTypes(types, [&]<typename TBranch, typename TStream, typename TOutput>(TBranch, TStream, TOutput) {
    NormForward<TBranch, TStream, TOutput> a = {
        .rows = rows,
        .width = static_cast<int>(branch.size(1)),
        .residual = InputOf<TStream>(stream_residual, branch, "the residual"),
        .residual_scale = static_cast<float>(residual_scale),
        .branch_scale = static_cast<float>(branch_scale),
        .branch_gain = InputOf<TBranch>(branch_gain, branch, "the branch's learned scale"),
        .sum_scale = static_cast<float>(sum_scale),
        .rounds_sum = rounds_sum,
        .sum = const_cast<TStream*>(InputOf<TStream>(sum, branch, "the sum")),
        .has_norm = gain.has_value(),
        .formula = formula,
        .gain = InputOf<TBranch>(gain, branch, "the norm's gain"),
        .bias = InputOf<TBranch>(bias, branch, "the norm's bias"),
        .alpha = InputOf<TBranch>(alpha, branch, "the norm's alpha"),
        .output_scale = static_cast<float>(output_scale),
        .eps = static_cast<float>(eps),
        .output = DataOf<TOutput>(output),
        .inv_rms = DataOf<float>(inv_rms),
        .branch_stats = DataOf<float>(branch_stats),
        .stream_stats = DataOf<float>(stream_stats)};
    if (residual) {
      a.branch = InputOf<TBranch>(branch, branch, "the branch");
    } else {
      a.input = InputOf<TStream>(branch, branch, "the norm's input");
    }
    const RowPlan plan =
        PlanRows(a.width, LanesOf(a.width, sizeof(TBranch),
                                  {a.residual, a.input, a.branch, a.branch_gain, a.sum, a.gain, a.bias, a.output}));
    C10_CUDA_CHECK(
        Launch(a, plan, NumBlocks(rows, plan, NumMultiprocessors(branch)), c10::cuda::getCurrentCUDAStream()));
  });
  return result;
}

/// Calls function(TWeight{}, TGrad{}, TX{}).
template <typename Function>
void WithBackwardTypes(at::ScalarType weight, at::ScalarType grad, at::ScalarType x, const Function& function) {
  const auto is = [&](at::ScalarType w, at::ScalarType g, at::ScalarType of_x) {
    return weight == w && grad == g && x == of_x;
  };
  if (is(at::kFloat, at::kFloat, at::kFloat)) return function(float{}, float{}, float{});
  if (is(at::kBFloat16, at::kBFloat16, at::kBFloat16)) return function(Bfloat16{}, Bfloat16{}, Bfloat16{});
  if (is(at::kBFloat16, at::kBFloat16, at::kFloat)) return function(Bfloat16{}, Bfloat16{}, float{});
  if (is(at::kBFloat16, at::kFloat, at::kFloat)) return function(Bfloat16{}, float{}, float{});
  if (is(at::kBFloat16, at::kFloat, at::kBFloat16)) return function(Bfloat16{}, float{}, Bfloat16{});
  TORCH_CHECK(false, "normlab's CUDA kernels know no gradient of a norm with weights in ", weight, ", gradient in ",
              grad, " and input in ", x, ": all float32, or bfloat16 weights with either type for the others");
}

NormGradientTensors NormBackwardOp(const at::Tensor& grad_output, const at::Tensor& x, const OptionalTensor& inv_rms,
                                   int64_t kind, const at::Tensor& gain, const OptionalTensor& bias,
                                   const OptionalTensor& alpha, double output_scale, const OptionalTensor& add,
                                   double add_scale) {
  CheckRows(x);
  TORCH_CHECK(grad_output.sizes() == x.sizes(), "a gradient of ", grad_output.sizes(), " for an input of ", x.sizes());
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t rows = x.size(0), width = x.size(1);
  const at::Tensor grad_x = at::empty_like(x);
  at::Tensor gain_parts, bias_parts, alpha_parts;
  const OptionalTensor rounded_add = add ? OptionalTensor(add->to(x.scalar_type())) : std::nullopt;
  WithBackwardTypes(
      gain.scalar_type(), grad_output.scalar_type(), x.scalar_type(),
      [&]<typename TWeight, typename TGrad, typename TX>(TWeight, TGrad, TX) {
        NormBackward<TWeight, TGrad, TX> a = {.rows = rows,
                                              .width = static_cast<int>(width),
                                              .formula = static_cast<NormFormula>(kind),
                                              .gain = InputOf<TWeight>(gain, x, "the norm's gain"),
                                              .alpha = InputOf<TWeight>(alpha, x, "the norm's alpha"),
                                              .output_scale = static_cast<float>(output_scale),
                                              .grad_output = InputOf<TGrad>(grad_output, x, "the gradient"),
                                              .x = InputOf<TX>(x, x, "the norm's input"),
                                              .inv_rms = InputOf<float>(inv_rms, x, "inv_rms"),
                                              .add = InputOf<TX>(rounded_add, x, "the gradient past the norm"),
                                              .add_scale = static_cast<float>(add_scale),
                                              .grad_x = DataOf<TX>(grad_x)};
        const RowPlan plan =
            PlanRows(width, LanesOf(width, sizeof(TWeight), {a.gain, a.grad_output, a.x, a.add, a.grad_x}));
        // At least one: no rows give sums of 0.
        const int blocks = std::max(1, NumBlocks(rows, plan, NumMultiprocessors(x)));
        gain_parts = EmptyFloats({blocks, width}, x);
        if (bias) bias_parts = EmptyFloats({blocks, width}, x);
        if (alpha) alpha_parts = EmptyFloats({blocks, 1}, x);
        a.gain_parts = DataOf<float>(gain_parts);
        a.bias_parts = DataOf<float>(bias_parts);
        a.alpha_parts = DataOf<float>(alpha_parts);
        C10_CUDA_CHECK(Launch(a, plan, blocks, c10::cuda::getCurrentCUDAStream()));
      });
  return {grad_x, SumOf(gain_parts), bias ? SumOf(bias_parts) : at::Tensor(),
          alpha ? SumOf(alpha_parts) : at::Tensor()};
}

template <typename TA, typename TB>
at::Tensor ColumnProductsOf(const at::Tensor& a, const at::Tensor& b) {
  const int64_t rows = a.size(0), width = a.size(1);
  ColumnProducts<TA, TB> products = {.rows = rows,
                                     .width = static_cast<int>(width),
                                     .a = InputOf<TA>(a, a, "a factor"),
                                     .b = InputOf<TB>(b, a, "a factor")};
  const RowPlan plan = PlanRows(width, LanesOf(width, sizeof(TB), {products.a, products.b}));
  const int blocks = std::max(1, NumBlocks(rows, plan, NumMultiprocessors(a)));
  const at::Tensor parts = EmptyFloats({blocks, width}, a);
  products.parts = DataOf<float>(parts);
  C10_CUDA_CHECK(Launch(products, plan, blocks, c10::cuda::getCurrentCUDAStream()));
  return SumOf(parts);
}

at::Tensor ColumnProductsOp(const at::Tensor& a, const at::Tensor& b) {
  CheckRows(a);
  TORCH_CHECK(a.sizes() == b.sizes(), "products of ", a.sizes(), " and ", b.sizes());
  const c10::cuda::CUDAGuard guard(a.device());
  const bool is_a_float = a.scalar_type() == at::kFloat, is_b_float = b.scalar_type() == at::kFloat;
  if (is_a_float && is_b_float) return ColumnProductsOf<float, float>(a, b);
  if (is_a_float) return ColumnProductsOf<float, Bfloat16>(a, b);
  if (is_b_float) return ColumnProductsOf<float, Bfloat16>(b, a);
  return ColumnProductsOf<Bfloat16, Bfloat16>(a, b);
}

/// Calls function(T{}) with T float or Bfloat16.
template <typename Function>
void WithElement(const at::Tensor& x, const Function& function) {
  if (x.scalar_type() == at::kFloat) return function(float{});
  if (x.scalar_type() == at::kBFloat16) return function(Bfloat16{});
  TORCH_CHECK(false, "normlab's CUDA kernels compute on float32 or bfloat16, not on ", x.scalar_type(), " ", x.sizes());
}

at::Tensor SwiGluOp(const at::Tensor& gate_up) {
  const c10::cuda::CUDAGuard guard(gate_up.device());
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  const at::Tensor output = at::empty({rows, width}, gate_up.options());
  if (output.numel() == 0) return output;
  WithElement(gate_up, [&]<typename T>(T) {
    const SwiGluForward<T> a = {
        .rows = rows, .width = width, .gate_up = InputOf<T>(gate_up, gate_up, "gate_up"), .output = DataOf<T>(output)};
    C10_CUDA_CHECK(Launch(a, LanesOf(width, sizeof(T), {a.gate_up, a.output}), c10::cuda::getCurrentCUDAStream()));
  });
  return output;
}

void SwiGluBackwardOp(const at::Tensor& gate_up, const at::Tensor& grad_output) {
  const c10::cuda::CUDAGuard guard(gate_up.device());
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  if (grad_output.numel() == 0) return;
  WithElement(gate_up, [&]<typename T>(T) {
    const SwiGluBackward<T> a = {.rows = rows,
                                 .width = width,
                                 .gate_up = const_cast<T*>(InputOf<T>(gate_up, gate_up, "gate_up")),
                                 .output = const_cast<T*>(InputOf<T>(grad_output, gate_up, "the gradient"))};
    C10_CUDA_CHECK(Launch(a, LanesOf(width, sizeof(T), {a.gate_up, a.output}), c10::cuda::getCurrentCUDAStream()));
  });
}

at::Tensor CrossEntropyOp(const at::Tensor& logits, const at::Tensor& targets, const OptionalTensor& grad_scale) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.is_contiguous() && targets.numel() == rows &&
                  targets.device() == logits.device(),
              "targets must be one contiguous int64 per row of logits (", rows, ") on ", logits.device(), ", not ",
              targets.scalar_type(), " ", targets.sizes(), " on ", targets.device());
  const at::Tensor losses = EmptyFloats({rows}, logits);
  if (rows == 0) return losses.sum();
  WithElement(logits, [&]<typename T>(T) {
    const CrossEntropy<T> a = {.rows = rows,
                               .vocab = vocab,
                               .logits = const_cast<T*>(InputOf<T>(logits, logits, "the logits")),
                               .targets = targets.const_data_ptr<int64_t>(),
                               .grad_scale = InputOf<float>(grad_scale, logits, "the gradient's scale"),
                               .losses = DataOf<float>(losses)};
    C10_CUDA_CHECK(Launch(a, LanesOf(vocab, sizeof(T), {a.logits}), c10::cuda::getCurrentCUDAStream()));
  });
  return losses.sum();
}

TORCH_LIBRARY_IMPL(normlab, CUDA, library) {
  ops::Register(library,
                {ResidualNormOp, NormBackwardOp, ColumnProductsOp, SwiGluOp, SwiGluBackwardOp, CrossEntropyOp});
}

}  // namespace
}  // namespace normlab::trainer::cuda
