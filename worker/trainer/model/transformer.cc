#include "worker/trainer/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "common/norm_plan.h"
#include "worker/trainer/data/ignored_target.h"
#include "worker/trainer/model/autograd.h"
#include "worker/trainer/model/block.h"
#include "worker/trainer/model/branch_factory.h"
#include "worker/trainer/model/families.h"
#include "worker/trainer/model/head.h"
#include "worker/trainer/model/init.h"
#include "worker/trainer/model/ngpt.h"
#include "worker/trainer/model/norm_node.h"
#include "worker/trainer/model/parameters.h"

namespace normlab::trainer {
namespace {

/// With gain and bias where they start.
Norm MakeNorm(const NormPlan& plan, const ModelSpec& model, at::TensorOptions options) {
  Norm norm = {.gain = at::full({model.hidden}, plan.gain_init, options),
               .output_scale = plan.output_scale,
               .eps = plan.eps_scale * model.norm_eps,
               .kind = plan.kind};
  if (plan.HasBias()) norm.bias = at::zeros({model.hidden}, options);
  if (plan.HasAlpha()) norm.alpha = at::full({1}, plan.alpha_init, options);
  return norm;
}

std::optional<Norm> MakeNorm(const std::optional<NormPlan>& plan, const ModelSpec& model, at::TensorOptions options) {
  return plan ? std::optional(MakeNorm(*plan, model, options)) : std::nullopt;
}

std::vector<at::Tensor> ParametersOf(const Norm& norm) {
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& weight : norm.Weights()) parameters.push_back(Trainable(weight));
  return parameters;
}

void Append(const std::vector<at::Tensor>& from, std::vector<at::Tensor>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

Sublayer MakeSublayer(const ModelSpec& model, const SublayerPlan& plan, std::shared_ptr<const Branch> branch,
                      at::TensorOptions options) {
  Sublayer sublayer = {.plan = plan,
                       .input_norm = MakeNorm(plan.input_norm, model, options),
                       .branch_norm = MakeNorm(plan.branch_norm, model, options),
                       .sum_norm = MakeNorm(plan.sum_norm, model, options),
                       .branch = std::move(branch)};
  if (plan.branch_scale_kind != BranchScaleKind::kConstant) {
    const int64_t size = plan.branch_scale_kind == BranchScaleKind::kLearnedVector ? model.hidden : 1;
    sublayer.branch_scale = at::full({size}, plan.branch_scale, options);
  }
  return sublayer;
}

/// In the order of ListParameters.
std::vector<at::Tensor> ParametersOf(const Block& block) {
  std::vector<at::Tensor> parameters;
  for (const Sublayer& sublayer : block.sublayers) {
    Append(sublayer.branch->parameters(), &parameters);
  }
  for (const Sublayer& sublayer : block.sublayers) {
    for (const auto* norm : {&sublayer.input_norm, &sublayer.branch_norm, &sublayer.sum_norm}) {
      if (*norm) Append(ParametersOf(**norm), &parameters);
    }
    if (sublayer.branch_scale.defined()) parameters.push_back(Trainable(sublayer.branch_scale));
  }
  if (block.gate.defined()) parameters.push_back(Trainable(block.gate));
  return parameters;
}

std::shared_ptr<Block> MakeBlock(const ModelSpec& model, const BlockPlan& plan, int layer, bool rounds_stream,
                                 at::TensorOptions options) {
  auto block = std::make_shared<Block>();
  block->sublayers = {
      MakeSublayer(model, plan.attention, MakeAttention(model, plan.qkv_norms, layer, options), options),
      MakeSublayer(model, plan.ffn, MakeFfn(model, options), options)};
  if (plan.attention.gate != Gate::kNone) block->gate = at::zeros({1}, options);
  block->rounds_stream = rounds_stream;
  block->parameters = ParametersOf(*block);
  return block;
}

void FillRandom(const MatrixInit& init, double std, const at::Tensor& tensor, uint64_t seed, std::string_view name) {
  init.IsTruncated() ? FillTruncatedNormal(tensor, std, seed, name) : FillNormal(tensor, std, seed, name);
}

void InitMatrix(const ParameterInfo& info, const at::Tensor& tensor, const ModelSpec& model,
                const std::vector<BlockPlan>& plans, uint64_t seed) {
  if (info.matrices.empty()) {
    // Embedding and head: truncated where the scheme truncates, but with deviations of their own.
    const MatrixInit& family = plans[0].Init(BlockMatrix::kQuery);
    FillRandom(family, info.is_embedding ? model.embed_init_std : model.init_std, tensor, seed, info.name);
    return;
  }
  const int out_dim = info.is_input_first ? 1 : 0;
  const auto num_parts = static_cast<int64_t>(info.matrices.size());
  const int64_t fan_in = info.shape[1 - out_dim], fan_out = info.shape[out_dim] / num_parts;
  for (int64_t part = 0; part < num_parts; ++part) {
    const MatrixInit& init = plans[info.layer - 1].Init(info.matrices[part]);
    const double std = init.Std(model.init_std, model.hidden, fan_in, fan_out);
    const std::string name = num_parts == 1 ? info.name : fmt::format("{}.{}", info.name, part);
    FillRandom(init, std, tensor.narrow(out_dim, part * fan_out, fan_out), seed, name);
  }
}

/// Asks the backward for the norm of the loss's gradient by x.
void KeepGradNorm(const at::Tensor& x, size_t index, const LayerForwardStats& stats) {
  if (stats.stream_grad_norms == nullptr) return;
  x.register_hook([norms = stats.stream_grad_norms, index](const at::Tensor& grad) {
    (*norms)[index] = grad.norm().item<double>();
  });
}

}  // namespace

struct Transformer::Impl {
  ModelSpec model;
  at::TensorOptions options;
  at::ScalarType stream_type;
  mutable std::map<int64_t, BranchContext> contexts;  // By length: made on the host, kept on the device.
  at::Tensor embedding;                               // [vocab, hidden], trainable
  at::Tensor positions;    // [max_positions, hidden], trainable; undefined where none are learned.
  at::Tensor embed_scale;  // [1], trainable; undefined without.
  std::optional<Norm> embed_norm;
  std::vector<at::Tensor> trainable_embed_norm;
  std::vector<std::shared_ptr<Block>> blocks;
  std::vector<NgptBlock> ngpt_blocks;  // Around `blocks`; empty but for nGPT.
  at::Tensor logit_scale;              // nGPT's, trainable.
  Head head;
  std::vector<Parameter> parameters;

  const BranchContext& Context(int64_t seq_len) const {
    const auto found = contexts.find(seq_len);
    if (found != contexts.end()) return found->second;
    return contexts.emplace(seq_len, MakeBranchContext(model, seq_len, options)).first->second;
  }

  /// The stream in front of the first block, [tokens, hidden].
  at::Tensor Embed(const at::Tensor& inputs) const {
    TORCH_CHECK(inputs.dim() == 2 && inputs.scalar_type() == at::kLong, "inputs must be int64 [batch, seq], not ",
                inputs.scalar_type(), " ", inputs.sizes());
    at::Tensor x = at::embedding(embedding, inputs);  // [batch, seq, hidden]
    if (positions.defined()) {
      const int64_t seq_len = inputs.size(1);
      TORCH_CHECK(seq_len <= positions.size(0), "a sequence has ", seq_len,
                  " tokens, the model has learned positions for ", positions.size(0));
      x = x + positions.narrow(0, 0, seq_len);
    }
    x = x.flatten(0, 1);
    if (embed_scale.defined()) x = x * embed_scale;
    return (embed_norm ? TrainableNorm(*embed_norm, trainable_embed_norm, x) : x).to(stream_type);
  }

  BlockOutput RunBlock(size_t i, const BranchContext& context, const at::Tensor& x, const at::Tensor& counted,
                       BlockStats* stats) const {
    if (ngpt_blocks.empty()) return ApplyBlock(blocks[i], context, x, counted, stats);
    return {.x = ApplyNgptBlock(ngpt_blocks[i], context, x, counted, stats)};
  }

  Head CurrentHead() const {
    if (!logit_scale.defined()) return head;
    Head scaled = head;
    scaled.trainable_weight = head.trainable_weight * LogitScale(logit_scale, model.hidden).unsqueeze(1);
    scaled.weight = scaled.trainable_weight.detach();
    return scaled;
  }

  /// The stream behind the last block, and the sum of the blocks' auxiliary losses.
  BlockOutput Stream(const at::Tensor& inputs, const at::Tensor& counted, LayerForwardStats* stats) const {
    const BranchContext context = Context(inputs.size(1));
    BlockOutput all = {.x = Embed(inputs)};
    if (stats != nullptr) {
      stats->blocks.assign(blocks.size(), {});
      stats->stream_grad_norms =
          all.x.requires_grad() ? std::make_shared<std::vector<double>>(blocks.size() + 1) : nullptr;
      KeepGradNorm(all.x, 0, *stats);
    }
    for (size_t i = 0; i < blocks.size(); ++i) {
      const BlockOutput one = RunBlock(i, context, all.x, counted, stats != nullptr ? &stats->blocks[i] : nullptr);
      all.x = one.x;
      if (stats != nullptr) KeepGradNorm(all.x, i + 1, *stats);
      if (one.auxiliary_loss.defined()) {
        all.auxiliary_loss =
            all.auxiliary_loss.defined() ? all.auxiliary_loss.add(one.auxiliary_loss) : one.auxiliary_loss;
      }
    }
    return all;
  }
};

Transformer::Transformer(const ModelSpec& model, const NormSpec& norm, int64_t vocab_size, uint64_t seed,
                         at::TensorOptions options)
    : impl_(std::make_unique<Impl>()) {
  CheckModelSpec(model, vocab_size);
  const std::vector<BlockPlan> plans = PlanBlocks(model, norm);
  const NormScheme scheme = SchemeOf(norm);
  impl_->model = model;
  impl_->options = options;
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  const bool is_narrow = type == at::kBFloat16;
  impl_->stream_type = is_narrow && !RoundsStream(norm) && !scheme.is_ngpt ? at::kFloat : type;
  if (model.family == "minimax" && (is_narrow || !options.device().is_cpu())) {
    throw PermanentError(
        "family minimax has no lightning attention and no experts on a GPU or in bfloat16: set resources.device to "
        "cpu, or take family llama or gpt2");
  }
  impl_->embedding = Trainable(at::empty({vocab_size, model.hidden}, options));
  const Family& family = GetFamily(model.family);
  const bool is_tied = family.head.empty();
  impl_->head.weight = is_tied ? impl_->embedding.detach() : at::empty({vocab_size, model.hidden}, options);
  impl_->head.trainable_weight = is_tied ? impl_->embedding : Trainable(impl_->head.weight);
  std::vector<at::Tensor> tensors = {impl_->embedding};  // In the order of ListParameters.
  if (!family.positions.empty()) {
    impl_->positions = Trainable(at::empty({model.max_positions, model.hidden}, options));
    tensors.push_back(impl_->positions);
  }
  if (scheme.has_embed_scale) {
    impl_->embed_scale = Trainable(at::full({1}, std::sqrt(static_cast<double>(model.hidden)), options));
    tensors.push_back(impl_->embed_scale);
  }
  impl_->embed_norm = MakeNorm(PlanEmbedNorm(norm, family.has_layer_norm), model, options);
  if (impl_->embed_norm) impl_->trainable_embed_norm = ParametersOf(*impl_->embed_norm);
  Append(impl_->trainable_embed_norm, &tensors);
  for (int layer = 1; layer <= model.num_layers; ++layer) {
    impl_->blocks.push_back(MakeBlock(model, plans[layer - 1], layer, RoundsStream(norm), options));
    Append(impl_->blocks.back()->parameters, &tensors);
    if (!scheme.is_ngpt) continue;
    impl_->ngpt_blocks.push_back(MakeNgptBlock(impl_->blocks.back(), model.hidden, model.ffn_hidden, options));
    Append(impl_->ngpt_blocks.back().Scales(), &tensors);
  }
  if (norm.final_norm && !scheme.is_ngpt) {
    impl_->head.norm = MakeNorm(PlanFinalNorm(norm, family.has_layer_norm), model, options);
    impl_->head.trainable_norm = ParametersOf(*impl_->head.norm);
    Append(impl_->head.trainable_norm, &tensors);
  }
  if (!is_tied) tensors.push_back(impl_->head.trainable_weight);
  if (scheme.is_ngpt) {
    impl_->logit_scale = MakeLogitScale(vocab_size, model.hidden, options);
    tensors.push_back(impl_->logit_scale);
  }

  const std::vector<ParameterInfo> infos = ListParameters(model, vocab_size, norm);
  TORCH_CHECK(infos.size() == tensors.size(), infos.size(), " parameters are listed, ", tensors.size(), " were made");
  for (size_t i = 0; i < infos.size(); ++i) {
    TORCH_CHECK(tensors[i].sizes() == at::IntArrayRef(infos[i].shape), infos[i].name, " was made as ",
                tensors[i].sizes());
    const bool is_matrix = infos[i].shape.size() == 2;
    if (is_matrix) InitMatrix(infos[i], tensors[i], model, plans, seed);
    const bool decays = is_matrix && !infos[i].is_embedding;
    impl_->parameters.push_back({infos[i].name, tensors[i], infos[i].layer, decays});
  }
  AfterUpdate();
}

Transformer::~Transformer() = default;

at::Tensor Transformer::Loss(const at::Tensor& inputs, const at::Tensor& targets, LayerForwardStats* stats) const {
  const at::Tensor flat_targets = targets.reshape({-1});
  const at::Tensor counted = stats != nullptr ? flat_targets.ne(kIgnoredTarget) : at::Tensor();
  const BlockOutput stream = impl_->Stream(inputs, counted, stats);
  const at::Tensor loss = HeadLoss(impl_->CurrentHead(), stream.x, flat_targets);
  return stream.auxiliary_loss.defined() && c10::GradMode::is_enabled() ? loss.add(stream.auxiliary_loss) : loss;
}

at::Tensor Transformer::Logits(const at::Tensor& inputs) const {
  const c10::NoGradGuard no_grad;
  const at::Tensor logits = HeadLogits(impl_->CurrentHead(), impl_->Stream(inputs, {}, nullptr).x);
  return logits.view({inputs.size(0), inputs.size(1), -1});
}

at::Tensor Transformer::Embed(const at::Tensor& inputs) const { return impl_->Embed(inputs); }

at::Tensor Transformer::RunBlock(int layer, const at::Tensor& x, int64_t seq_len) const {
  TORCH_CHECK(layer >= 1 && layer <= impl_->model.num_layers, "block ", layer, " of ", impl_->model.num_layers);
  return impl_->RunBlock(static_cast<size_t>(layer) - 1, impl_->Context(seq_len), x, {}, nullptr).x;
}

at::Tensor Transformer::StreamLoss(const at::Tensor& x, const at::Tensor& targets) const {
  return HeadLoss(impl_->CurrentHead(), x, targets.reshape({-1}));
}

void Transformer::AfterUpdate() {
  if (impl_->ngpt_blocks.empty()) return;
  for (const NgptBlock& block : impl_->ngpt_blocks) NormalizeMatrices(block);
  NormalizeRows(impl_->embedding);
  NormalizeRows(impl_->head.weight);
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
