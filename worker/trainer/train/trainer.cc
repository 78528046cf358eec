#include "worker/trainer/train/trainer.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "worker/trainer/train/fingerprint.h"
#include "worker/trainer/train/schedule.h"

namespace normlab::trainer {
namespace {

// Checksums that are not verified by then are verified when they are first read: a run over a dataset of hundreds of
// gigabytes must not wait minutes, on every rank and at every attempt, for bytes that it will not read.
constexpr double kDataCheckSeconds = 5;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::span<float> Values(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

std::vector<NamedArray> ModelArrays(const std::vector<Parameter>& parameters) {
  std::vector<NamedArray> arrays;
  for (const Parameter& p : parameters) arrays.push_back({p.name, p.tensor.sizes().vec(), Values(p.tensor)});
  return arrays;
}

std::vector<NamedArray> OptimizerArrays(const std::vector<Parameter>& parameters, const AdamW& optimizer) {
  std::vector<NamedArray> arrays;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::vector<int64_t> shape = parameters[i].tensor.sizes().vec();
    arrays.push_back({"exp_avg." + parameters[i].name, shape, Values(optimizer.exp_avgs()[i])});
    arrays.push_back({"exp_avg_sq." + parameters[i].name, shape, Values(optimizer.exp_avg_sqs()[i])});
  }
  return arrays;
}

double RootOfSquares(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

Trainer::Trainer(const TrainerSpec& spec, EventSink& events, const std::atomic<bool>& stop_requested)
    : spec_(spec),
      events_(events),
      stop_requested_(stop_requested),
      data_(spec, TimeLimit(kDataCheckSeconds)),
      fingerprint_(FingerprintOf(spec.run, data_.manifest())),
      gang_(spec, fmt::format("{} attempt {}", DigestOf(fingerprint_), spec.attempt), events),
      model_(spec.run.model, spec.run.norm, data_.manifest().vocab_size, spec.run.seed),
      optimizer_(model_.parameters(), spec.run.train),
      grad_sync_(gang_, model_.parameters()),
      local_batch_(spec.run.train.batch_size / spec.world_size),
      micro_batch_(spec.run.train.micro_batch_size == 0 ? local_batch_ : spec.run.train.micro_batch_size) {
  Resume();
  int64_t num_parameters = 0;
  for (const Parameter& parameter : model_.parameters()) num_parameters += parameter.tensor.numel();
  events_.Emit(Started{.first_step = step_ + 1,
                       .steps = spec_.run.train.steps,
                       .num_parameters = num_parameters,
                       .resumed_from = resumed_from_,
                       .flops_per_token = model_.FlopsPerToken(spec_.run.data.seq_len),
                       .device = "cpu",
                       .torch_version = TORCH_VERSION});
}

Trainer::~Trainer() = default;

void Trainer::Resume() {
  std::vector<at::Tensor> state;
  for (const Parameter& parameter : model_.parameters()) state.push_back(parameter.tensor.detach());
  state.insert(state.end(), optimizer_.exp_avgs().begin(), optimizer_.exp_avgs().end());
  state.insert(state.end(), optimizer_.exp_avg_sqs().begin(), optimizer_.exp_avg_sqs().end());
  if (gang_.is_first()) {
    checkpoints_ =
        std::make_unique<CheckpointFolder>(CheckpointFolder::Options{.path = spec_.checkpoint_dir,
                                                                     .attempt = spec_.attempt,
                                                                     .resume_from_attempt = spec_.resume_from_attempt,
                                                                     .kept = spec_.run.report.checkpoints_kept});
    if (const auto checkpoint = checkpoints_->FindNewest(events_)) {
      RequireSameFingerprint(*checkpoint, fingerprint_);
      const SafetensorsReader model(checkpoint->model_file), optimizer(checkpoint->optimizer_file);
      const std::vector<Parameter>& parameters = model_.parameters();
      for (size_t i = 0; i < parameters.size(); ++i) {
        const std::vector<int64_t> shape = parameters[i].tensor.sizes().vec();
        model.Read(parameters[i].name, shape, Values(parameters[i].tensor));
        optimizer.Read("exp_avg." + parameters[i].name, shape, Values(optimizer_.exp_avgs()[i]));
        optimizer.Read("exp_avg_sq." + parameters[i].name, shape, Values(optimizer_.exp_avg_sqs()[i]));
      }
      step_ = checkpoint->step;
      saved_step_ = step_;
      resumed_from_ = checkpoint->name;
    }
  }
  // Rank 0 alone reads the folder: the others need no shared file system, and none can load another checkpoint.
  at::Tensor step = at::full({1}, step_, at::kLong);
  gang_.Broadcast({step});
  step_ = step.item<int64_t>();
  if (step_ > 0) gang_.Broadcast(state);
}

void Trainer::Run() {
  const TrainSpec& train = spec_.run.train;
  const ReportSpec& report = spec_.run.report;
  while (step_ < train.steps) {
    const StepResult result = TrainStep(step_ + 1);
    if (!result.is_finite) {
      Report(result);
      events_.Emit(LogLine{.severity = Severity::kWarning,
                           .text = fmt::format("update {} has loss {} and gradient norm {}: the run diverged",
                                               step_ + 1, result.loss, result.grad_norm)});
      events_.Emit(Finished{.step = step_ + 1, .diverged = true});
      return;
    }
    ++step_;
    if (IsDue(step_, report.step_every_steps)) Report(result);
    if (IsDue(step_, report.layers_every_steps)) ReportLayers(result);
    if (IsDue(step_, report.eval_every_steps)) Evaluate();
    if (IsDue(step_, report.checkpoint_every_steps)) SaveCheckpoint();
    if (result.is_stop_agreed && step_ < train.steps) {
      SaveCheckpoint();
      gang_.Barrier();
      events_.Emit(Stopped{.step = step_});
      return;
    }
  }
  Evaluate();
  SaveCheckpoint();
  // Rank 0 holds the rendezvous, and no rank may say that it is done before the checkpoint is there.
  gang_.Barrier();
  events_.Emit(Finished{.step = step_, .diverged = false});
}

Trainer::StepResult Trainer::TrainStep(int64_t step) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t num_micros = local_batch_ / micro_batch_;
  const bool are_layers_due = gang_.is_first() && IsDue(step, spec_.run.report.layers_every_steps);
  LayerForwardStats stats;
  at::Tensor loss_sum = at::zeros({}, at::kDouble);  // Read once per update, with what the ranks agree on.
  grad_sync_.ZeroGradients();
  for (int64_t micro = 0; micro < num_micros; ++micro) {
    const bool is_last = micro + 1 == num_micros;
    const Batch batch = TrainBatch(step, micro);
    const at::Tensor loss = model_.Loss(batch.inputs, batch.targets, is_last && are_layers_due ? &stats : nullptr);
    if (is_last) grad_sync_.ExpectLastBackward();
    // Scaled here, so that the sum over micro batches and ranks is the mean over the whole batch.
    loss.backward(at::full({}, 1.0 / static_cast<double>(num_micros * gang_.world_size()), at::kFloat));
    loss_sum += loss.detach();
  }
  grad_sync_.Finish();

  // One small sum carries all that the ranks must agree on before the weights change.
  const at::Tensor stop_votes = at::full({}, stop_requested_.load() ? 1.0 : 0.0, at::kDouble);
  const at::Tensor shared = at::stack({loss_sum, stop_votes});
  gang_.Sum(shared);
  StepResult result{.loss = shared[0].item<double>() / static_cast<double>(num_micros * gang_.world_size()),
                    .lr = LearningRate(spec_.run.train, step),
                    .grad_norms = GradientNorms(),
                    .layer_rows = stats.rows};
  result.is_stop_agreed = shared[1].item<double>() > 0;
  result.grad_norm = RootOfSquares(result.grad_norms);
  result.is_finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  if (result.is_finite) {
    result.is_clipped = Clip(result.grad_norm);
    optimizer_.Step(step, result.lr);
  }
  result.seconds = SecondsSince(start);
  ++unreported_steps_;
  unreported_seconds_ += result.seconds;
  return result;
}

Trainer::Batch Trainer::EmptyBatch(int64_t count) const {
  const int64_t seq_len = spec_.run.data.seq_len;
  return {.inputs = at::empty({count, seq_len}, at::kLong), .targets = at::empty({count, seq_len}, at::kLong)};
}

Trainer::Batch Trainer::TrainBatch(int64_t step, int64_t micro) {
  const int64_t first = RankPart(spec_.run.train.batch_size, gang_.rank(), gang_.world_size()).begin;
  Batch batch = EmptyBatch(micro_batch_);
  batch.num_targets = data_.ReadTrain(step, first + micro * micro_batch_, micro_batch_,
                                      batch.inputs.data_ptr<int64_t>(), batch.targets.data_ptr<int64_t>());
  return batch;
}

Trainer::Batch Trainer::ValidationBatch(int64_t first, int64_t count) {
  Batch batch = EmptyBatch(count);
  batch.num_targets =
      data_.ReadValidation(first, count, batch.inputs.data_ptr<int64_t>(), batch.targets.data_ptr<int64_t>());
  return batch;
}

std::vector<double> Trainer::GradientNorms() const {
  const c10::AutoGradMode no_grad(false);
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : model_.parameters()) gradients.push_back(parameter.tensor.grad());
  const at::Tensor norms = at::stack(at::_foreach_norm(gradients)).to(at::kDouble);  // [parameters]
  const double* values = norms.data_ptr<double>();
  return {values, values + norms.numel()};
}

bool Trainer::Clip(double grad_norm) {
  const double limit = spec_.run.train.grad_norm_max;
  if (limit == 0 || grad_norm <= limit) return false;
  const c10::AutoGradMode no_grad(false);
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : model_.parameters()) gradients.push_back(parameter.tensor.grad());
  at::_foreach_mul_(gradients, limit / grad_norm);
  return true;
}

void Trainer::Report(const StepResult& result) {
  if (!gang_.is_first()) return;
  const int64_t batch_tokens = spec_.run.train.batch_size * spec_.run.data.seq_len;
  const int64_t step = result.is_finite ? step_ : step_ + 1;
  events_.Emit(
      StepReport{.step = step,
                 .loss = result.loss,
                 .lr = result.lr,
                 .grad_norm = result.grad_norm,
                 .tokens = step * batch_tokens,
                 // Time of updates only: evaluations and checkpoints between two reports would make it jump.
                 .tokens_per_second = static_cast<double>(unreported_steps_ * batch_tokens) / unreported_seconds_,
                 .step_seconds = result.seconds,
                 .clipped = result.is_clipped});
  unreported_steps_ = 0;
  unreported_seconds_ = 0;
}

void Trainer::ReportLayers(const StepResult& result) {
  if (!gang_.is_first()) return;
  const int num_layers = spec_.run.model.num_layers;
  std::vector<std::vector<double>> norms_of_layer(static_cast<size_t>(num_layers) + 1);
  for (size_t i = 0; i < result.grad_norms.size(); ++i) {
    norms_of_layer[model_.parameters()[i].layer].push_back(result.grad_norms[i]);
  }
  const at::Tensor rows = result.layer_rows.to(at::kDouble).contiguous();
  LayerReport report{.step = step_};
  for (int layer = 1; layer <= num_layers; ++layer) {
    const double* row = rows.data_ptr<double>() + (layer - 1) * 4;
    report.layers.push_back({.layer = layer,
                             .output_variance = row[0],
                             .output_mean_square = row[1],
                             .attention_mean_square = row[2],
                             .ffn_mean_square = row[3],
                             .grad_norm = RootOfSquares(norms_of_layer[layer])});
  }
  events_.Emit(report);
}

void Trainer::Evaluate() {
  if (evaluated_step_ == step_) return;
  evaluated_step_ = step_;
  const c10::AutoGradMode no_grad(false);
  const int64_t count = std::min(spec_.run.report.eval_sequences, data_.num_validation_rows());
  const IndexRange part = RankPart(count, gang_.rank(), gang_.world_size());
  double loss_sum = 0;
  int64_t tokens = 0;
  for (int64_t begin = part.begin; begin < part.end; begin += micro_batch_) {
    const Batch batch = ValidationBatch(begin, std::min(micro_batch_, part.end - begin));
    loss_sum += model_.Loss(batch.inputs, batch.targets).item<double>() * static_cast<double>(batch.num_targets);
    tokens += batch.num_targets;
  }
  const at::Tensor sums = at::tensor({loss_sum, static_cast<double>(tokens)}, at::kDouble);
  gang_.Sum(sums);
  if (!gang_.is_first()) return;
  const double loss = sums[0].item<double>() / sums[1].item<double>();
  events_.Emit(EvalReport{.step = step_,
                          .loss = loss,
                          .perplexity = std::exp(loss),
                          .tokens = static_cast<int64_t>(sums[1].item<double>())});
}

void Trainer::SaveCheckpoint() {
  if (!gang_.is_first() || saved_step_ == step_) return;
  const int64_t batch_tokens = spec_.run.train.batch_size * spec_.run.data.seq_len;
  events_.Emit(checkpoints_->Write({.step = step_,
                                    .tokens = step_ * batch_tokens,
                                    .fingerprint = fingerprint_,
                                    .run_json = spec_.run_json,
                                    .model = ModelArrays(model_.parameters()),
                                    .optimizer = OptimizerArrays(model_.parameters(), optimizer_)}));
  saved_step_ = step_;
}

bool Trainer::IsDue(int64_t step, int64_t every_steps) const {
  return step % every_steps == 0 || step == spec_.run.train.steps;
}

}  // namespace normlab::trainer
