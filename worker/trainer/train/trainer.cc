#include "worker/trainer/train/trainer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "worker/trainer/device/gpu_table.h"
#include "worker/trainer/device/memory_estimate.h"
#include "worker/trainer/train/fingerprint.h"
#include "worker/trainer/train/peak_flops.h"
#include "worker/trainer/train/schedule.h"
#include "worker/trainer/train/tensor_norms.h"

namespace normlab::trainer {
namespace {

// Checksums that are not verified by then are verified when they are first read: a run over a dataset of hundreds of
// gigabytes must not wait minutes, on every rank and at every attempt, for bytes that it will not read.
constexpr double kDataCheckSeconds = 5;

constexpr double kEvaluatingEverySeconds = 10;

/// Refuses a model that cannot fit before anything of it is made.
RunDevice OpenFittingDevice(const TrainerSpec& spec, int64_t vocab_size, EventSink& events) {
  RunDevice device = OpenDevice(spec.device, events);
  if (!device.is_cuda()) return device;
  const MemoryNeed need = EstimateMemory({.run = spec.run,
                                          .vocab_size = vocab_size,
                                          .world_size = spec.world_size,
                                          .is_narrow = device.is_narrow,
                                          .is_device = true});
  RequireFits(need, device.memory_bytes, device.name, spec.run.train);
  events.Emit(LogLine{.severity = Severity::kInfo,
                      .text = fmt::format("about {:.2f} GB of the {:.2f} GB of {} will be used",
                                          static_cast<double>(need.Total()) / 1e9,
                                          static_cast<double>(device.memory_bytes) / 1e9, device.name)});
  return device;
}

bool IsNarrow(const RunDevice& device, const TrainSpec& train) {
  return device.is_narrow && train.param_dtype != "fp32";
}

at::TensorOptions WeightOptions(const RunDevice& device, const TrainSpec& train) {
  return at::TensorOptions(IsNarrow(device, train) ? at::kBFloat16 : at::kFloat).device(device.device);
}

/// 0: not known.
double PeakFlopsOf(const RunDevice& device, const TrainSpec& train) {
  if (!device.is_cuda()) return MeasurePeakFlops();
  const GpuRow* gpu = FindGpu(device.name);
  if (gpu == nullptr) return 0;
  return IsNarrow(device, train) ? gpu->bf16_flops : gpu->fp32_flops;
}

}  // namespace

Trainer::Trainer(const TrainerSpec& spec, EventSink& events, const std::atomic<bool>& stop_requested,
                 std::optional<RunDevice> device)
    : spec_(spec),
      events_(events),
      stop_requested_(stop_requested),
      data_(spec, TimeLimit(kDataCheckSeconds)),
      fingerprint_(FingerprintOf(spec.run, data_.manifest())),
      device_(device ? *device : OpenFittingDevice(spec, data_.manifest().vocab_size, events)),
      gang_(spec, fmt::format("{} attempt {} zero {}", DigestOf(fingerprint_), spec.attempt, spec.run.train.zero_stage),
            events, device_.device),
      model_(spec.run.model, spec.run.norm, data_.manifest().vocab_size, spec.run.seed,
             WeightOptions(device_, spec.run.train)),
      optimizer_(model_.parameters(), spec.run.train, is_sharded() ? spec.rank : 0, is_sharded() ? spec.world_size : 1),
      grad_sync_(gang_, model_.parameters(), /*is_wide=*/spec.run.train.param_dtype == "fp32_master"),
      state_copy_(gang_, model_.parameters(), optimizer_, is_sharded()),
      local_batch_(spec.run.train.batch_size / spec.world_size),
      micro_batch_(spec.run.train.micro_batch_size == 0 ? local_batch_ : spec.run.train.micro_batch_size) {
  if (gang_.is_first()) OpenCheckpoints();
  Resume();
  int64_t num_parameters = 0;
  for (const Parameter& parameter : model_.parameters()) num_parameters += parameter.tensor.numel();
  const double flops_per_token = model_.FlopsPerToken(spec_.run.data.seq_len);
  const double peak_flops =
      gang_.is_first() ? PeakFlopsOf(device_, spec_.run.train) * static_cast<double>(gang_.world_size()) : 0;
  reports_.Start(flops_per_token, peak_flops);
  events_.Emit(Started{.first_step = step_ + 1,
                       .steps = spec_.run.train.steps,
                       .num_parameters = num_parameters,
                       .resumed_from = resumed_from_,
                       .flops_per_token = flops_per_token,
                       .device = device_.name,
                       .torch_version = TORCH_VERSION,
                       .peak_flops = peak_flops});
}

Trainer::~Trainer() = default;

void Trainer::OpenCheckpoints() {
  checkpoints_ = std::make_unique<CheckpointFolder>(
      CheckpointFolder::Options{.path = spec_.checkpoint_dir,
                                .attempt = spec_.attempt,
                                .resume_from_attempt = spec_.resume_from_attempt,
                                .kept = spec_.run.report.checkpoints_kept,
                                .keep_every_steps = spec_.run.report.checkpoints_keep_every_steps});
}

void Trainer::Resume() {
  std::optional<VerifiedCheckpoint> checkpoint;
  if (checkpoints_) {
    checkpoint = checkpoints_->FindNewest(events_);
    writer_ = std::make_unique<CheckpointWriter>(*std::exchange(checkpoints_, nullptr));
  }
  at::Tensor numbers = at::zeros({4}, at::kLong);
  if (checkpoint) {
    RequireSameFingerprint(*checkpoint, fingerprint_);
    resumed_from_ = checkpoint->name;
    numbers =
        at::tensor({checkpoint->step, checkpoint->tokens, checkpoint->clipped_updates, checkpoint->updates_above_bound},
                   at::kLong);
  }
  gang_.Broadcast({numbers});
  const int64_t* values = numbers.data_ptr<int64_t>();
  step_ = values[0];
  progress_ = {.tokens = values[1], .clipped_updates = values[2], .updates_above_bound = values[3]};
  if (step_ == 0) return StartFromInitialWeights();
  LoadState(checkpoint ? &*checkpoint : nullptr, gang_, model_.parameters(), optimizer_);
  saved_step_ = step_;
}

void Trainer::StartFromInitialWeights() {
  if (!spec_.init_dir.empty()) {
    std::optional<InitialWeights> weights;
    if (gang_.is_first()) {
      weights.emplace(spec_.init_dir, events_);
      events_.Emit(LogLine{.severity = Severity::kInfo, .text = fmt::format("weights from {}", weights->source())});
    }
    LoadWeights(weights ? &*weights : nullptr, gang_, model_.parameters());
  }
  optimizer_.AdoptWeights();
}

void Trainer::Run() {
  const TrainSpec& train = spec_.run.train;
  const ReportSpec& report = spec_.run.report;
  while (step_ < train.steps) {
    const StepResult result = TrainStep(step_ + 1);
    if (const std::string why = Divergence(result); !why.empty()) return EndDiverged(result, why);
    ++step_;
    if (gang_.is_first()) {
      if (IsDue(step_, report.step_every_steps)) events_.Emit(reports_.Step(step_, result, progress_));
      if (result.layers) events_.Emit(MakeLayerReport(step_, result, model_.parameters()));
      if (const auto outcome = writer_->Poll()) ReportCheckpoint(*outcome);
    }
    if (IsDue(step_, report.eval_every_steps)) Evaluate();
    if (IsDue(step_, report.checkpoint_every_steps)) StartCheckpoint();
    if (result.is_stop_agreed && step_ < train.steps) {
      StartCheckpoint();
      FinishCheckpoints();
      events_.Emit(Stopped{.step = step_});
      return;
    }
  }
  Evaluate();
  StartCheckpoint();
  FinishCheckpoints();
  ReportDeviceMemory();
  events_.Emit(Finished{.step = step_, .diverged = false});
}

StepResult Trainer::TrainStep(int64_t step) {
  const double cpu_start = ProcessCpuSeconds();
  StepResult result{.lr = LearningRate(spec_.run.train, step)};
  Stopwatch watch;
  const std::vector<Batch> batches = TrainBatches(step);
  result.phases.data = watch.Lap();
  ForwardBackward(batches, step, &result);
  Update(step, &result);
  result.cpu_seconds = ProcessCpuSeconds() - cpu_start;
  reports_.Add(result);
  return result;
}

void Trainer::ForwardBackward(const std::vector<Batch>& batches, int64_t step, StepResult* result) {
  Stopwatch watch;
  const bool are_layers_due = gang_.is_first() && IsDue(step, spec_.run.report.layers_every_steps);
  // Known only to all ranks together, and needed by the first backward: the sum runs beside the first forward.
  int64_t own_targets = 0;
  for (const Batch& batch : batches) own_targets += batch.num_targets;
  const at::Tensor num_targets = at::full({}, static_cast<double>(own_targets), at::kDouble);
  std::unique_ptr<Gang::Pending> sum = gang_.StartSum(num_targets);
  const bool is_token_mean = spec_.run.train.loss_mean == "token";
  const double micro_batch_weight = 1.0 / static_cast<double>(batches.size() * gang_.world_size());

  if (are_layers_due) result->layers.emplace();
  // Read when all is under way: a GPU would have to be waited for after each.
  std::vector<std::pair<double, at::Tensor>> weighted_losses;
  grad_sync_.ZeroGradients();
  for (size_t micro = 0; micro < batches.size(); ++micro) {
    const Batch& batch = batches[micro];
    const bool is_last = micro + 1 == batches.size();
    const at::Tensor loss =
        model_.Loss(batch.inputs, batch.targets, is_last && are_layers_due ? &*result->layers : nullptr);
    result->phases.forward += watch.Lap();
    if (sum) std::exchange(sum, nullptr)->Wait();
    result->tokens = static_cast<int64_t>(num_targets.item<double>());
    result->phases.communication += watch.Lap();
    if (is_last) grad_sync_.ExpectLastBackward();
    // Weighted here, so that the sum over micro batches and ranks is the mean over the whole batch.
    const double weight = is_token_mean ? static_cast<double>(batch.num_targets) /
                                              static_cast<double>(std::max<int64_t>(1, result->tokens))
                                        : micro_batch_weight;
    loss.backward(at::full({}, weight, loss.options()));
    weighted_losses.emplace_back(weight, loss.detach());
    result->phases.backward += watch.Lap();
  }
  grad_sync_.Finish();
  double loss_sum = 0;
  for (const auto& [weight, loss] : weighted_losses) loss_sum += weight * loss.item<double>();
  // One small sum carries all that the ranks must agree on before the weights change.
  const at::Tensor shared = at::tensor({loss_sum, stop_requested_.load() ? 1.0 : 0.0}, at::kDouble);
  gang_.Sum(shared);
  result->loss = shared[0].item<double>();
  result->is_stop_agreed = shared[1].item<double>() > 0;
  result->phases.communication += watch.Lap();
}

void Trainer::Update(int64_t step, StepResult* result) {
  const c10::AutoGradMode no_grad(false);
  Stopwatch watch;
  const std::vector<at::Tensor> gradients = Gradients();
  if (optimizer_.rounding() == Rounding::kAll && !IsNarrow(device_, spec_.run.train)) {
    ForEachPiece(gradients, [](size_t, size_t, float* values, int64_t count) { RoundToBfloat16(values, count); });
  }
  result->grad_norms = NormsOf(gradients);
  result->grad_norm = RootOfSquares(result->grad_norms);
  progress_.tokens += result->tokens;
  const double bound = spec_.run.train.divergence_loss;
  progress_.updates_above_bound = bound > 0 && result->loss > bound ? progress_.updates_above_bound + 1 : 0;
  if (!Divergence(*result).empty()) {
    result->phases.optimizer = watch.Lap();
    return;
  }
  const double limit = spec_.run.train.grad_norm_max;
  result->is_clipped = limit > 0 && result->grad_norm > limit;
  progress_.clipped_updates += result->is_clipped ? 1 : 0;
  optimizer_.Step(step, result->lr, result->is_clipped ? limit / result->grad_norm : 1);
  model_.AfterUpdate();
  result->phases.optimizer = watch.Lap();
  if (is_sharded()) ShareWeights(gang_, model_.parameters());
  result->phases.communication += watch.Lap();
}

std::string Trainer::Divergence(const StepResult& result) {
  const TrainSpec& train = spec_.run.train;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    return fmt::format("it has loss {} and gradient norm {}", result.loss, result.grad_norm);
  }
  if (progress_.updates_above_bound < train.divergence_steps) return "";
  return fmt::format("its loss {} is the last of {} in a row above train.divergence_loss {}", result.loss,
                     progress_.updates_above_bound, train.divergence_loss);
}

void Trainer::EndDiverged(const StepResult& result, const std::string& why) {
  const int64_t step = step_ + 1;
  if (writer_) {
    if (const auto outcome = writer_->Wait()) ReportCheckpoint(*outcome);
    events_.Emit(reports_.Step(step, result, progress_));
    events_.Emit(LogLine{.severity = Severity::kWarning, .text = fmt::format("update {} diverged: {}", step, why)});
  }
  gang_.Barrier();
  events_.Emit(Finished{.step = step, .diverged = true});
}

Trainer::Batch Trainer::EmptyBatch(int64_t count) const {
  const int64_t seq_len = spec_.run.data.seq_len;
  const at::TensorOptions options = at::TensorOptions(at::kLong).pinned_memory(device_.is_cuda());
  return {.inputs = at::empty({count, seq_len}, options), .targets = at::empty({count, seq_len}, options)};
}

void Trainer::Upload(Batch* batch) const {
  batch->inputs = batch->inputs.to(device_.device, batch->inputs.scalar_type(), /*non_blocking=*/true);
  batch->targets = batch->targets.to(device_.device, batch->targets.scalar_type(), /*non_blocking=*/true);
}

void Trainer::ReportDeviceMemory() {
  if (!device_.is_cuda() || !gang_.is_first()) return;
  events_.Emit(LogLine{.severity = Severity::kInfo,
                       .text = fmt::format("at most {:.2f} GB of {} were in use",
                                           static_cast<double>(PeakDeviceBytes(device_)) / 1e9, device_.name)});
}

std::vector<Trainer::Batch> Trainer::TrainBatches(int64_t step) {
  const int64_t first = RankPart(spec_.run.train.batch_size, gang_.rank(), gang_.world_size()).begin;
  std::vector<Batch> batches;
  for (int64_t begin = 0; begin < local_batch_; begin += micro_batch_) {
    Batch batch = EmptyBatch(micro_batch_);
    batch.num_targets = data_.ReadTrain(step, first + begin, micro_batch_, batch.inputs.data_ptr<int64_t>(),
                                        batch.targets.data_ptr<int64_t>());
    Upload(&batch);
    batches.push_back(std::move(batch));
  }
  return batches;
}

Trainer::Batch Trainer::ValidationBatch(int64_t first, int64_t count) {
  Batch batch = EmptyBatch(count);
  batch.num_targets =
      data_.ReadValidation(first, count, batch.inputs.data_ptr<int64_t>(), batch.targets.data_ptr<int64_t>());
  Upload(&batch);
  return batch;
}

std::vector<at::Tensor> Trainer::Gradients() const {
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : model_.parameters()) {
    // A product's gradient by a part of a shared matrix is a view of rows, which is contiguous.
    parameter.tensor.mutable_grad() = parameter.tensor.grad().contiguous();
    gradients.push_back(parameter.tensor.grad());
  }
  return gradients;
}

void Trainer::Evaluate() {
  if (evaluated_step_ == step_) return;
  evaluated_step_ = step_;
  const c10::AutoGradMode no_grad(false);
  const int64_t count = std::min(spec_.run.report.eval_sequences, data_.num_validation_rows());
  const IndexRange part = RankPart(count, gang_.rank(), gang_.world_size());
  double loss_sum = 0;
  int64_t tokens = 0, batches = 0;
  Stopwatch since_word;
  for (int64_t begin = part.begin; begin < part.end; begin += micro_batch_, ++batches) {
    const Batch batch = ValidationBatch(begin, std::min(micro_batch_, part.end - begin));
    loss_sum += model_.Loss(batch.inputs, batch.targets).item<double>() * static_cast<double>(batch.num_targets);
    tokens += batch.num_targets;
    if (gang_.is_first() && since_word.Seconds() >= kEvaluatingEverySeconds) {
      events_.Emit(Evaluating{.step = step_,
                              .sequences_done = std::min(begin + micro_batch_, part.end) - part.begin,
                              .sequences = part.end - part.begin});
      since_word.Lap();
    }
  }
  const at::Tensor sums = at::tensor({loss_sum, static_cast<double>(tokens)}, at::kDouble);
  gang_.Sum(sums);
  if (!gang_.is_first()) return;
  const double loss = sums[0].item<double>() / sums[1].item<double>();
  const auto n = static_cast<double>(batches);  // Rank 0 never has fewer than another.
  events_.Emit(EvalReport{.step = step_,
                          .loss = loss,
                          .perplexity = std::exp(loss),
                          .tokens = static_cast<int64_t>(sums[1].item<double>()),
                          .batches = batches,
                          .perplexity_official = std::exp(loss * n / (n + 1))});
}

void Trainer::StartCheckpoint() {
  if (saved_step_ == step_) return;
  saved_step_ = step_;
  Stopwatch watch;
  if (writer_) {
    if (const auto outcome = writer_->Wait()) ReportCheckpoint(*outcome);
  }
  state_copy_.Take();
  if (writer_) {
    writer_->Start({.step = step_,
                    .tokens = progress_.tokens,
                    .clipped_updates = progress_.clipped_updates,
                    .updates_above_bound = progress_.updates_above_bound,
                    .fingerprint = fingerprint_,
                    .run_json = spec_.run_json,
                    .model = state_copy_.ModelArrays(),
                    .optimizer = state_copy_.OptimizerArrays()});
  }
  stall_seconds_ = watch.Lap();
  reports_.AddStall(stall_seconds_);
}

void Trainer::ReportCheckpoint(const CheckpointWriter::Outcome& outcome) {
  if (outcome.saved) {
    CheckpointSaved saved = *outcome.saved;
    saved.stall_seconds = stall_seconds_;
    events_.Emit(saved);
  } else {
    events_.Emit(LogLine{.severity = Severity::kWarning,
                         .text = fmt::format("{}; training goes on, the next one is tried after at most {} updates",
                                             outcome.error, spec_.run.report.checkpoint_every_steps)});
  }
}

void Trainer::FinishCheckpoints() {
  if (writer_) {
    if (const auto outcome = writer_->Wait()) {
      if (!outcome->saved && outcome->step == step_) throw std::runtime_error(outcome->error);
      ReportCheckpoint(*outcome);
    }
  }
  // Rank 0 holds the rendezvous, and no rank may say that it is done before the checkpoint is there.
  gang_.Barrier();
}

bool Trainer::IsDue(int64_t step, int64_t every_steps) const {
  return step % every_steps == 0 || step == spec_.run.train.steps;
}

}  // namespace normlab::trainer
