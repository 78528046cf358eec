#include "worker/trainer/model/transformer.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <utility>

#include "common/norm_scheme.h"
#include "worker/trainer/model/block.h"
#include "worker/trainer/model/head.h"
#include "worker/trainer/model/init.h"
#include "worker/trainer/model/parameters.h"

namespace normlab::trainer {
namespace {

const NormScheme& GetNormScheme(const std::string& name) {
  if (const NormScheme* scheme = FindNormScheme(name)) return *scheme;
  std::string known;
  for (const NormScheme& scheme : kNormSchemes) known += fmt::format("{}{}", known.empty() ? "" : ", ", scheme.name);
  throw PermanentError(fmt::format("norm.scheme is \"{}\": this trainer knows {}", name, known));
}

/// A trainable tensor on the same memory.
at::Tensor Trainable(const at::Tensor& storage) { return storage.detach().requires_grad_(); }

std::shared_ptr<Block> MakeBlock(const ModelSpec& model, const BlockPlan& plan, at::ScalarType dtype) {
  const int64_t hidden = model.hidden;
  const int64_t ffn_hidden = model.ffn_hidden;
  auto block = std::make_shared<Block>();
  block->plan = plan;
  block->attention_norm = {at::ones({hidden}, dtype), plan.attention_norm_scale, model.norm_eps};
  block->ffn_norm = {at::ones({hidden}, dtype), plan.ffn_norm_scale, model.norm_eps};
  block->attention = {.qkv = at::empty({3 * hidden, hidden}, dtype),
                      .output = at::empty({hidden, hidden}, dtype),
                      .num_heads = model.num_heads};
  block->mlp = {.gate_up = at::empty({2 * ffn_hidden, hidden}, dtype), .down = at::empty({hidden, ffn_hidden}, dtype)};
  block->parameters = {Trainable(block->attention.qkv.narrow(0, 0, hidden)),
                       Trainable(block->attention.qkv.narrow(0, hidden, hidden)),
                       Trainable(block->attention.qkv.narrow(0, 2 * hidden, hidden)),
                       Trainable(block->attention.output),
                       Trainable(block->mlp.gate_up.narrow(0, 0, ffn_hidden)),
                       Trainable(block->mlp.gate_up.narrow(0, ffn_hidden, ffn_hidden)),
                       Trainable(block->mlp.down),
                       Trainable(block->attention_norm.gain),
                       Trainable(block->ffn_norm.gain)};
  return block;
}

void InitMatrix(const ParameterInfo& info, const at::Tensor& tensor, const ModelSpec& model,
                const std::vector<std::shared_ptr<Block>>& blocks, uint64_t seed) {
  double std = info.name == "model.embed_tokens.weight" ? model.embed_init_std : model.init_std;
  if (info.matrix) {
    std = blocks[info.layer - 1]->plan.Init(*info.matrix).Std(model.init_std, info.shape[1], info.shape[0]);
  }
  FillNormal(tensor, std, seed, info.name);
}

}  // namespace

struct Transformer::Impl {
  ModelSpec model;
  at::ScalarType dtype;
  at::Tensor embedding;  // [vocab, hidden], trainable
  std::vector<std::shared_ptr<Block>> blocks;
  Head head;
  std::vector<Parameter> parameters;

  /// The stream behind the last block, [tokens, hidden].
  at::Tensor Stream(const at::Tensor& inputs, std::vector<BlockStats>* stats) const {
    TORCH_CHECK(inputs.dim() == 2 && inputs.scalar_type() == at::kLong, "inputs must be int64 [batch, seq], not ",
                inputs.scalar_type(), " ", inputs.sizes());
    const RotaryTable rotary = MakeRotaryTable(inputs.size(1), model.hidden / model.num_heads, model.rope_base, dtype);
    at::Tensor x = at::embedding(embedding, inputs.reshape({-1}));  // [tokens, hidden]
    for (size_t i = 0; i < blocks.size(); ++i) {
      x = ApplyBlock(blocks[i], rotary, x, stats != nullptr ? &(*stats)[i] : nullptr);
    }
    return x;
  }
};

Transformer::Transformer(const ModelSpec& model, const NormSpec& norm, int64_t vocab_size, uint64_t seed,
                         at::ScalarType dtype)
    : impl_(std::make_unique<Impl>()) {
  CheckModelSpec(model, vocab_size);
  const NormScheme& scheme = GetNormScheme(norm.scheme);
  impl_->model = model;
  impl_->dtype = dtype;
  impl_->embedding = Trainable(at::empty({vocab_size, model.hidden}, dtype));
  impl_->head.weight = at::empty({vocab_size, model.hidden}, dtype);
  impl_->head.trainable_weight = Trainable(impl_->head.weight);
  std::vector<at::Tensor> tensors = {impl_->embedding};  // In the order of ListParameters.
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    const BlockPlan plan = PlanBlock(scheme, layer, model.num_layers, norm.mix_ln_ratio);
    impl_->blocks.push_back(MakeBlock(model, plan, dtype));
    tensors.insert(tensors.end(), impl_->blocks.back()->parameters.begin(), impl_->blocks.back()->parameters.end());
  }
  if (norm.final_norm) {
    impl_->head.norm = {at::ones({model.hidden}, dtype), /*output_scale=*/1, model.norm_eps};
    impl_->head.trainable_gain = Trainable(impl_->head.norm->gain);
    tensors.push_back(impl_->head.trainable_gain);
  }
  tensors.push_back(impl_->head.trainable_weight);

  const std::vector<ParameterInfo> infos = ListParameters(model, vocab_size, norm.final_norm);
  TORCH_CHECK(infos.size() == tensors.size(), infos.size(), " parameters are listed, ", tensors.size(), " were made");
  for (size_t i = 0; i < infos.size(); ++i) {
    TORCH_CHECK(tensors[i].sizes() == at::IntArrayRef(infos[i].shape), infos[i].name, " was made as ",
                tensors[i].sizes());
    const bool is_matrix = infos[i].shape.size() == 2;
    if (is_matrix) InitMatrix(infos[i], tensors[i], model, impl_->blocks, seed);
    const bool decays = is_matrix && infos[i].name != "model.embed_tokens.weight";
    impl_->parameters.push_back({infos[i].name, tensors[i], infos[i].layer, decays});
  }
}

Transformer::~Transformer() = default;

at::Tensor Transformer::Loss(const at::Tensor& inputs, const at::Tensor& targets, LayerForwardStats* stats) const {
  std::vector<BlockStats> block_stats(impl_->blocks.size());
  const at::Tensor x = impl_->Stream(inputs, stats != nullptr ? &block_stats : nullptr);
  if (stats != nullptr) {
    stats->rows = at::empty({static_cast<int64_t>(block_stats.size()), 4}, at::kFloat);
    float* row = stats->rows.mutable_data_ptr<float>();
    for (const BlockStats& block : block_stats) {
      *row++ = static_cast<float>(block.output_variance);
      *row++ = static_cast<float>(block.output_mean_square);
      *row++ = static_cast<float>(block.attention_mean_square);
      *row++ = static_cast<float>(block.ffn_mean_square);
    }
  }
  return HeadLoss(impl_->head, x, targets.reshape({-1}));
}

at::Tensor Transformer::Logits(const at::Tensor& inputs) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor logits = HeadLogits(impl_->head, impl_->Stream(inputs, nullptr));
  return logits.view({inputs.size(0), inputs.size(1), -1});
}

const std::vector<Parameter>& Transformer::parameters() const { return impl_->parameters; }

double Transformer::FlopsPerToken(int64_t seq_len) const {
  double weights = 0;
  for (const Parameter& parameter : impl_->parameters) {
    if (parameter.name != "model.embed_tokens.weight") weights += static_cast<double>(parameter.tensor.numel());
  }
  return 6 * weights + 12.0 * impl_->model.num_layers * static_cast<double>(impl_->model.hidden * seq_len);
}

}  // namespace normlab::trainer
