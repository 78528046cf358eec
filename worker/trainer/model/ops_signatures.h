#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

// The operators' schemas as C++ signatures, and how one set of implementations is registered. The library of kernels
// reads this header, too, and nothing else of the model.
namespace normlab::trainer::ops {

using OptionalTensor = std::optional<at::Tensor>;

/// Output, inv_rms, statistics of the branch and of the stream by row.
using ResidualNormTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using ResidualNormFunction = ResidualNormTensors(const OptionalTensor& residual, const at::Tensor& branch,
                                                 const OptionalTensor& branch_gain, const OptionalTensor& sum,
                                                 double residual_scale, double branch_scale, double sum_scale,
                                                 bool rounds_sum, int64_t kind, const OptionalTensor& gain,
                                                 const OptionalTensor& bias, const OptionalTensor& alpha,
                                                 double output_scale, double eps, at::ScalarType output_type,
                                                 bool wants_branch_stats, bool wants_stream_stats);

/// Gradients by x, gain, bias and alpha.
using NormGradientTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using NormBackwardFunction = NormGradientTensors(const at::Tensor& grad_output, const at::Tensor& x,
                                                 const OptionalTensor& inv_rms, int64_t kind, const at::Tensor& gain,
                                                 const OptionalTensor& bias, const OptionalTensor& alpha,
                                                 double output_scale, const OptionalTensor& add, double add_scale);

using ColumnProductsFunction = at::Tensor(const at::Tensor& a, const at::Tensor& b);
using SwiGluFunction = at::Tensor(const at::Tensor& gate_up);
using SwiGluBackwardFunction = void(const at::Tensor& gate_up, const at::Tensor& grad_output);
using CrossEntropyFunction = at::Tensor(const at::Tensor& logits, const at::Tensor& targets,
                                        const OptionalTensor& grad_scale);

struct Implementations {
  ResidualNormFunction* residual_norm;
  NormBackwardFunction* norm_backward;
  ColumnProductsFunction* column_products;
  SwiGluFunction* swiglu;
  SwiGluBackwardFunction* swiglu_backward;
  CrossEntropyFunction* cross_entropy;
};

/// Under the library's dispatch key.
inline void Register(torch::Library& library, const Implementations& all) {
  library.impl("residual_norm", all.residual_norm);
  library.impl("norm_backward", all.norm_backward);
  library.impl("column_products", all.column_products);
  library.impl("swiglu", all.swiglu);
  library.impl("swiglu_backward", all.swiglu_backward);
  library.impl("cross_entropy", all.cross_entropy);
}

/// By LibTorch's own operations (ops_composite.cc). A function, as it is asked before static objects are all made.
const Implementations& Composite();

}  // namespace normlab::trainer::ops
