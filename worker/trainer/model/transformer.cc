#include "worker/trainer/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <utility>

#include "common/norm_scheme.h"
#include "worker/trainer/model/autograd.h"
#include "worker/trainer/model/block.h"
#include "worker/trainer/model/branch_factory.h"
#include "worker/trainer/model/families.h"
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

Norm MakeNorm(const ModelSpec& model, double output_scale, at::ScalarType dtype) {
  Norm norm = {at::ones({model.hidden}, dtype), output_scale, model.norm_eps};
  if (GetFamily(model.family).has_layer_norm) norm.bias = at::zeros({model.hidden}, dtype);
  return norm;
}

std::vector<at::Tensor> ParametersOf(const Norm& norm) {
  std::vector<at::Tensor> parameters = {Trainable(norm.gain)};
  if (norm.bias.defined()) parameters.push_back(Trainable(norm.bias));
  return parameters;
}

void Append(const std::vector<at::Tensor>& from, std::vector<at::Tensor>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

Sublayer MakeSublayer(const ModelSpec& model, const SublayerPlan& plan, std::shared_ptr<const Branch> branch,
                      at::ScalarType dtype) {
  Sublayer sublayer = {.plan = plan, .branch = std::move(branch)};
  if (plan.has_input_norm) sublayer.input_norm = MakeNorm(model, plan.input_norm_scale, dtype);
  if (plan.has_sum_norm) sublayer.sum_norm = MakeNorm(model, plan.sum_norm_scale, dtype);
  return sublayer;
}

/// In the order of ListParameters.
std::vector<at::Tensor> ParametersOf(const Block& block) {
  std::vector<at::Tensor> parameters;
  for (const Sublayer& sublayer : block.sublayers) {
    Append(sublayer.branch->parameters(), &parameters);
  }
  for (const Sublayer& sublayer : block.sublayers) {
    for (const auto* norm : {&sublayer.input_norm, &sublayer.sum_norm}) {
      if (*norm) Append(ParametersOf(**norm), &parameters);
    }
  }
  return parameters;
}

std::shared_ptr<Block> MakeBlock(const ModelSpec& model, const BlockPlan& plan, int layer, at::ScalarType dtype) {
  auto block = std::make_shared<Block>();
  block->sublayers = {MakeSublayer(model, plan.attention, MakeAttention(model, layer, dtype), dtype),
                      MakeSublayer(model, plan.ffn, MakeFfn(model, dtype), dtype)};
  block->parameters = ParametersOf(*block);
  return block;
}

void InitMatrix(const ParameterInfo& info, const at::Tensor& tensor, const ModelSpec& model,
                const std::vector<BlockPlan>& plans, uint64_t seed) {
  if (info.matrices.empty()) {
    FillNormal(tensor, info.is_embedding ? model.embed_init_std : model.init_std, seed, info.name);
    return;
  }
  const int out_dim = info.is_input_first ? 1 : 0;
  const auto num_parts = static_cast<int64_t>(info.matrices.size());
  const int64_t fan_in = info.shape[1 - out_dim], fan_out = info.shape[out_dim] / num_parts;
  for (int64_t part = 0; part < num_parts; ++part) {
    const double std = plans[info.layer - 1].Init(info.matrices[part]).Std(model.init_std, fan_in, fan_out);
    const std::string name = num_parts == 1 ? info.name : fmt::format("{}.{}", info.name, part);
    FillNormal(tensor.narrow(out_dim, part * fan_out, fan_out), std, seed, name);
  }
}

}  // namespace

struct Transformer::Impl {
  ModelSpec model;
  at::ScalarType dtype;
  at::Tensor embedding;  // [vocab, hidden], trainable
  at::Tensor positions;  // [max_positions, hidden], trainable; undefined where none are learned.
  std::vector<std::shared_ptr<Block>> blocks;
  Head head;
  std::vector<Parameter> parameters;

  BranchContext Context(int64_t seq_len) const { return MakeBranchContext(model, seq_len, dtype); }

  /// The stream in front of the first block, [tokens, hidden].
  at::Tensor Embed(const at::Tensor& inputs) const {
    TORCH_CHECK(inputs.dim() == 2 && inputs.scalar_type() == at::kLong, "inputs must be int64 [batch, seq], not ",
                inputs.scalar_type(), " ", inputs.sizes());
    const at::Tensor x = at::embedding(embedding, inputs);  // [batch, seq, hidden]
    if (!positions.defined()) return x.flatten(0, 1);
    const int64_t seq_len = inputs.size(1);
    TORCH_CHECK(seq_len <= positions.size(0), "a sequence has ", seq_len,
                " tokens, the model has learned positions for ", positions.size(0));
    return (x + positions.narrow(0, 0, seq_len)).flatten(0, 1);
  }

  /// The stream behind the last block, and the sum of the blocks' auxiliary losses.
  BlockOutput Stream(const at::Tensor& inputs, std::vector<BlockStats>* stats) const {
    const BranchContext context = Context(inputs.size(1));
    BlockOutput all = {.x = Embed(inputs)};
    for (size_t i = 0; i < blocks.size(); ++i) {
      const BlockOutput one = ApplyBlock(blocks[i], context, all.x, stats != nullptr ? &(*stats)[i] : nullptr);
      all.x = one.x;
      if (one.auxiliary_loss.defined()) {
        all.auxiliary_loss =
            all.auxiliary_loss.defined() ? all.auxiliary_loss.add(one.auxiliary_loss) : one.auxiliary_loss;
      }
    }
    return all;
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
  const Family& family = GetFamily(model.family);
  const bool is_tied = family.head.empty();
  impl_->head.weight = is_tied ? impl_->embedding.detach() : at::empty({vocab_size, model.hidden}, dtype);
  impl_->head.trainable_weight = is_tied ? impl_->embedding : Trainable(impl_->head.weight);
  std::vector<at::Tensor> tensors = {impl_->embedding};  // In the order of ListParameters.
  if (!family.positions.empty()) {
    impl_->positions = Trainable(at::empty({model.max_positions, model.hidden}, dtype));
    tensors.push_back(impl_->positions);
  }
  std::vector<BlockPlan> plans;
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    plans.push_back(PlanBlock(scheme, layer, model.num_layers, norm.mix_ln_ratio));
    impl_->blocks.push_back(MakeBlock(model, plans.back(), layer, dtype));
    Append(impl_->blocks.back()->parameters, &tensors);
  }
  if (norm.final_norm) {
    impl_->head.norm = MakeNorm(model, /*output_scale=*/1, dtype);
    impl_->head.trainable_norm = ParametersOf(*impl_->head.norm);
    Append(impl_->head.trainable_norm, &tensors);
  }
  if (!is_tied) tensors.push_back(impl_->head.trainable_weight);

  const std::vector<ParameterInfo> infos = ListParameters(model, vocab_size, norm.final_norm);
  TORCH_CHECK(infos.size() == tensors.size(), infos.size(), " parameters are listed, ", tensors.size(), " were made");
  for (size_t i = 0; i < infos.size(); ++i) {
    TORCH_CHECK(tensors[i].sizes() == at::IntArrayRef(infos[i].shape), infos[i].name, " was made as ",
                tensors[i].sizes());
    const bool is_matrix = infos[i].shape.size() == 2;
    if (is_matrix) InitMatrix(infos[i], tensors[i], model, plans, seed);
    const bool decays = is_matrix && !infos[i].is_embedding;
    impl_->parameters.push_back({infos[i].name, tensors[i], infos[i].layer, decays});
  }
}

Transformer::~Transformer() = default;

at::Tensor Transformer::Loss(const at::Tensor& inputs, const at::Tensor& targets, LayerForwardStats* stats) const {
  std::vector<BlockStats> block_stats(impl_->blocks.size());
  const BlockOutput stream = impl_->Stream(inputs, stats != nullptr ? &block_stats : nullptr);
  if (stats != nullptr) {
    stats->rows = at::empty({static_cast<int64_t>(block_stats.size()), 4}, at::kFloat);
    float* row = stats->rows.mutable_data_ptr<float>();
    stats->dropped_ratios.clear();
    for (const BlockStats& block : block_stats) {
      stats->dropped_ratios.push_back(block.dropped_ratio);
      *row++ = static_cast<float>(block.output_variance);
      *row++ = static_cast<float>(block.output_mean_square);
      *row++ = static_cast<float>(block.attention_mean_square);
      *row++ = static_cast<float>(block.ffn_mean_square);
    }
  }
  const at::Tensor loss = HeadLoss(impl_->head, stream.x, targets.reshape({-1}));
  return stream.auxiliary_loss.defined() && c10::GradMode::is_enabled() ? loss.add(stream.auxiliary_loss) : loss;
}

at::Tensor Transformer::Logits(const at::Tensor& inputs) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor logits = HeadLogits(impl_->head, impl_->Stream(inputs, nullptr).x);
  return logits.view({inputs.size(0), inputs.size(1), -1});
}

at::Tensor Transformer::Embed(const at::Tensor& inputs) const { return impl_->Embed(inputs); }

at::Tensor Transformer::RunBlock(int layer, const at::Tensor& x, int64_t seq_len) const {
  return ApplyBlock(impl_->blocks.at(static_cast<size_t>(layer) - 1), impl_->Context(seq_len), x, nullptr).x;
}

at::Tensor Transformer::StreamLoss(const at::Tensor& x, const at::Tensor& targets) const {
  return HeadLoss(impl_->head, x, targets.reshape({-1}));
}

const std::vector<Parameter>& Transformer::parameters() const { return impl_->parameters; }

double Transformer::FlopsPerToken(int64_t seq_len) const {
  // Norms and head: 6 per weight, like the matrices of the branches. An embedding is only looked up.
  double flops =
      impl_->head.trainable_weight.is_same(impl_->embedding) ? 6 * static_cast<double>(impl_->embedding.numel()) : 0;
  for (const Parameter& parameter : impl_->parameters) {
    const bool is_looked_up = parameter.tensor.is_same(impl_->embedding) || parameter.tensor.is_same(impl_->positions);
    if (!is_looked_up) flops += 6 * static_cast<double>(parameter.tensor.numel());
  }
  for (const std::shared_ptr<Block>& block : impl_->blocks) {
    for (const Sublayer& sublayer : block->sublayers) {
      for (const at::Tensor& p : sublayer.branch->parameters()) flops -= 6 * static_cast<double>(p.numel());
      flops += sublayer.branch->FlopsPerToken(seq_len);
    }
  }
  return flops;
}

}  // namespace normlab::trainer
