#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/trainer/model/branch.h"
#include "worker/trainer/model/mlp.h"

namespace normlab::trainer {

/// Where the tokens of a batch go: each to the two experts with the largest router logits (of equal ones the first),
/// weighted by the softmax over the two.
///
/// Room is counted for each sequence by itself: expert e takes the first `capacity` tokens of a sequence that chose it,
/// and a token that comes later gets nothing from it. So what happens to a sequence depends on no other one, nor on how
/// many are in a forward: a gang computes what one process does, and an evaluation what training does. And it depends
/// on no later token. (GShard, arXiv:2006.16668, calls this a group; MiniMax-01 counts over all ranks.)
struct Routing {
  std::vector<int32_t> experts;    // [tokens * 2]: the chosen, best first.
  std::vector<int64_t> rows;       // [tokens * 2]: place among `tokens_of`; kDropped if there was no room.
  std::vector<int64_t> tokens_of;  // Tokens that are kept, by expert and then in order; a token may be there twice.
  std::vector<int64_t> begins;     // [experts + 1]: where each expert's part of tokens_of begins.
  std::vector<double> fractions;   // [sequences * experts]: tokens that chose it, kept or not, per token; sums to 2.
  int64_t num_dropped;             // Choices without room.
};

inline constexpr int64_t kDropped = -1;
inline constexpr int kChoices = 2;

/// ceil(factor * 2 * seq / num_experts), and at most seq: no sequence sends an expert more.
int64_t ExpertCapacity(double factor, int64_t seq, int64_t num_experts);

/// logits: [tokens, experts], whole sequences of `seq` tokens one after another. One thread.
Routing Route(const at::Tensor& logits, int64_t seq, int64_t capacity);

/// Mixture of SwiGLU experts as in MiniMax-01 (arXiv:2501.08313): y = sum over the two chosen experts of p_e F_e(x),
/// p the softmax over their two logits of r = W_r x; a dropped choice gives zero. No shared expert.
///
/// Its auxiliary loss is the balance loss in GShard's form, coefficient * (1/E) sum_e f_e m_e per sequence, averaged
/// over sequences: f_e the fraction of tokens that chose e (a constant to the gradient; the f sum to 2), m_e the mean
/// of softmax(r)_e over all experts. Balanced, it is 2 coefficient / E^2. The form with a factor E instead of 1/E
/// (Switch, arXiv:2101.03961; released configurations) is E^2 times as large, so coefficients of one do not fit the
/// other.
///
/// Parameters: router [experts, hidden], then gate, up and down of each expert.
class MoeBranch final : public Branch {
 public:
  struct Shape {
    int64_t hidden;
    int64_t ffn_hidden;
    int64_t num_experts;
    double capacity_factor;
    double balance_coefficient;
  };

  MoeBranch(const Shape& shape, at::TensorOptions options);

  at::Tensor Forward(const BranchContext& context, const at::Tensor& input,
                     std::unique_ptr<BranchSaved>* saved) const override;
  BranchGradient Backward(const BranchContext& context, const at::Tensor& input, std::unique_ptr<BranchSaved> saved,
                          const at::Tensor& grad_output, const at::Tensor& add, double add_scale) const override;
  const std::vector<at::Tensor>& parameters() const override { return parameters_; }
  /// 6 per weight of the router and of two experts.
  double FlopsPerToken(int64_t seq_len) const override;

 private:
  Shape shape_;
  at::Tensor router_;  // [experts, hidden]
  std::vector<SwiGluBranch> experts_;
  std::vector<at::Tensor> parameters_;
};

}  // namespace normlab::trainer
