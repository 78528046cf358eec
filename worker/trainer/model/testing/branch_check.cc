#include "worker/trainer/model/testing/branch_check.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <gtest/gtest.h>

namespace normlab::trainer::testing {
namespace {

void ExpectNear(const at::Tensor& actual, const at::Tensor& expected, double tolerance, const std::string& what) {
  ASSERT_TRUE(actual.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const double error = (actual.to(at::kDouble) - expected).norm().item<double>();
  EXPECT_LE(error, tolerance * expected.norm().item<double>()) << what;
}

}  // namespace

at::Tensor Random(at::IntArrayRef shape, uint64_t seed, double std) {
  return (at::randn(shape, at::detail::createCPUGenerator(seed), at::kFloat) * std).to(at::kDouble);
}

void ExpectBranchEquals(const Branch& branch, const BranchContext& context, int64_t tokens, int64_t hidden,
                        const Formula& formula, double tolerance, uint64_t seed, double std) {
  const at::ScalarType dtype = branch.parameters()[0].scalar_type();
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : branch.parameters()) {
    ASSERT_TRUE(parameter.is_contiguous() && parameter.requires_grad());
    at::Tensor values = Random(parameter.sizes(), ++seed * 1000, std);
    if (parameter.dim() == 1) values = (values + 1).to(at::kFloat).to(at::kDouble);
    parameter.detach().copy_(values);
    parameters.push_back(values.requires_grad_());
  }
  const at::Tensor input = Random({tokens, hidden}, ++seed * 1000).requires_grad_();
  const at::Tensor grad = Random({tokens, hidden}, ++seed * 1000), add = Random({tokens, hidden}, ++seed * 1000);
  constexpr double kAddScale = 1.5, kAuxiliaryGrad = 0.7;

  const BranchFormula expected = formula(input, parameters);
  at::Tensor objective = (expected.output * grad).sum();
  if (expected.auxiliary_loss.defined()) objective = objective + kAuxiliaryGrad * expected.auxiliary_loss;
  objective.backward();

  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const at::Tensor actual_input = input.detach().to(dtype);
  std::unique_ptr<BranchSaved> saved;
  ExpectNear(branch.Forward(context, actual_input, &saved), expected.output.detach(), tolerance, "output");
  ASSERT_EQ(saved->auxiliary_loss.defined(), expected.auxiliary_loss.defined());
  if (expected.auxiliary_loss.defined()) {
    ExpectNear(saved->auxiliary_loss, expected.auxiliary_loss.detach(), tolerance, "auxiliary loss");
    saved->grad_auxiliary_loss = kAuxiliaryGrad;
  }
  const BranchGradient gradient =
      branch.Backward(context, actual_input, std::move(saved), grad.to(dtype), add.to(dtype), kAddScale);
  ExpectNear(gradient.input, input.grad() + kAddScale * add, tolerance, "gradient by the input");
  ASSERT_EQ(gradient.parameters.size(), parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    ExpectNear(gradient.parameters[i], parameters[i].grad(), tolerance, "gradient by parameter " + std::to_string(i));
  }
}

}  // namespace normlab::trainer::testing
