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

std::shared_ptr<const Branch> MakeMiniMaxAttention(const ModelSpec& model, int layer, at::TensorOptions options) {
  if (IsSoftmaxLayer(model, layer)) {
    return std::make_shared<GqaAttentionBranch>(model.hidden, model.num_heads, NumKeyValueHeads(model), options);
  }
  return std::make_shared<LightningBranch>(LightningBranch::Shape{.hidden = model.hidden,
                                                                  .num_heads = model.num_heads,
                                                                  .layer0 = layer - 1,
                                                                  .num_layers = model.num_layers,
                                                                  .norm_eps = model.norm_eps},
                                           options);
}

}  // namespace

std::shared_ptr<const Branch> MakeAttention(const ModelSpec& model, const QkvNorms& norms, int layer,
                                            at::TensorOptions options) {
  if (model.family == "minimax") return MakeMiniMaxAttention(model, layer, options);
  if (model.family == "gpt2") return std::make_shared<BiasedAttentionBranch>(model.hidden, model.num_heads, options);
  return std::make_shared<AttentionBranch>(model.hidden, model.num_heads, options, norms, model.norm_eps);
}

std::shared_ptr<const Branch> MakeFfn(const ModelSpec& model, at::TensorOptions options) {
  if (model.family == "minimax") {
    return std::make_shared<MoeBranch>(MoeBranch::Shape{.hidden = model.hidden,
                                                        .ffn_hidden = model.ffn_hidden,
                                                        .num_experts = model.num_experts,
                                                        .capacity_factor = model.capacity_factor,
                                                        .balance_coefficient = model.balance_coefficient},
                                       options);
  }
  if (model.family == "gpt2") return std::make_shared<GeluMlpBranch>(model.hidden, model.ffn_hidden, options);
  return std::make_shared<SwiGluBranch>(model.hidden, model.ffn_hidden, options);
}

BranchContext MakeBranchContext(const ModelSpec& model, int64_t seq, at::TensorOptions options) {
  const int64_t head_dim = model.hidden / model.num_heads;
  if (model.family == "minimax") return {.rotary = MakeHalfRotaryTable(seq, head_dim, model.rope_base, options)};
  if (model.family == "gpt2") return {.rotary = MakeIdentityRotaryTable(seq, head_dim, options)};
  return {.rotary = MakeRotaryTable(seq, head_dim, model.rope_base, options)};
}

}  // namespace normlab::trainer
