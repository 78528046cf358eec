#include "worker/trainer/model/branch_factory.h"

#include "worker/trainer/model/attention.h"
#include "worker/trainer/model/biased_attention.h"
#include "worker/trainer/model/families.h"
#include "worker/trainer/model/gelu_mlp.h"
#include "worker/trainer/model/gqa_attention.h"
#include "worker/trainer/model/lightning_branch.h"
#include "worker/trainer/model/mlp.h"
#include "worker/trainer/model/moe.h"

namespace normlab::trainer {
namespace {

std::shared_ptr<const Branch> MakeMiniMaxAttention(const ModelSpec& model, int layer, at::ScalarType dtype) {
  if (IsSoftmaxLayer(model, layer)) {
    return std::make_shared<GqaAttentionBranch>(model.hidden, model.num_heads, NumKeyValueHeads(model), dtype);
  }
  return std::make_shared<LightningBranch>(LightningBranch::Shape{.hidden = model.hidden,
                                                                  .num_heads = model.num_heads,
                                                                  .layer0 = layer - 1,
                                                                  .num_layers = model.num_layers,
                                                                  .norm_eps = model.norm_eps},
                                           dtype);
}

}  // namespace

std::shared_ptr<const Branch> MakeAttention(const ModelSpec& model, const QkvNorms& norms, int layer,
                                            at::ScalarType dtype) {
  if (model.family == "minimax") return MakeMiniMaxAttention(model, layer, dtype);
  if (model.family == "gpt2") return std::make_shared<BiasedAttentionBranch>(model.hidden, model.num_heads, dtype);
  return std::make_shared<AttentionBranch>(model.hidden, model.num_heads, dtype, norms, model.norm_eps);
}

std::shared_ptr<const Branch> MakeFfn(const ModelSpec& model, at::ScalarType dtype) {
  if (model.family == "minimax") {
    return std::make_shared<MoeBranch>(MoeBranch::Shape{.hidden = model.hidden,
                                                        .ffn_hidden = model.ffn_hidden,
                                                        .num_experts = model.num_experts,
                                                        .capacity_factor = model.capacity_factor,
                                                        .balance_coefficient = model.balance_coefficient},
                                       dtype);
  }
  if (model.family == "gpt2") return std::make_shared<GeluMlpBranch>(model.hidden, model.ffn_hidden, dtype);
  return std::make_shared<SwiGluBranch>(model.hidden, model.ffn_hidden, dtype);
}

BranchContext MakeBranchContext(const ModelSpec& model, int64_t seq, at::ScalarType dtype) {
  const int64_t head_dim = model.hidden / model.num_heads;
  if (model.family == "minimax") return {.rotary = MakeHalfRotaryTable(seq, head_dim, model.rope_base, dtype)};
  if (model.family == "gpt2") return {.rotary = MakeIdentityRotaryTable(seq, head_dim, dtype)};
  return {.rotary = MakeRotaryTable(seq, head_dim, model.rope_base, dtype)};
}

}  // namespace normlab::trainer
