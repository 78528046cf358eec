#include "worker/trainer/diagnostics/probe.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "worker/trainer/data/sampler.h"
#include "worker/trainer/export/hugging_face_folder.h"
#include "worker/trainer/export/run_checkpoint.h"
#include "worker/trainer/train/safetensors.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kSeqLenOfOthers = 256;
// Any number: the same sequences for all models.
constexpr uint64_t kRowsKey = 20250209;

/// Fills every parameter from `source`, which has Read as SafetensorsReader does.
template <typename Source>
void Load(const Source& source, const std::vector<Parameter>& parameters) {
  const c10::NoGradGuard no_grad;
  for (const Parameter& parameter : parameters) {
    const at::Tensor values = at::empty(parameter.tensor.sizes(), at::kFloat);
    source.Read(parameter.name, parameter.tensor.sizes().vec(),
                std::span(values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())));
    parameter.tensor.copy_(values);
  }
}

std::string FieldOf(const Fingerprint& fingerprint, const std::string& name) {
  for (const auto& [field, value] : fingerprint) {
    if (field == name) return value;
  }
  return "";
}

}  // namespace

Probe::Probe(const ProbeOptions& options) : batch_(options.batch) {
  options.model.empty() ? OpenCheckpoint(options) : OpenModel(options);
}

void Probe::OpenCheckpoint(const ProbeOptions& options) {
  const RunCheckpoint run = OpenRunCheckpoint(options.checkpoint);
  const Manifest manifest = ReadManifest(options.data);
  const std::string tokenizer = FieldOf(run.checkpoint.fingerprint, "the dataset's tokenizer");
  if (manifest.tokenizer_sha256 != tokenizer) {
    throw PermanentError(
        fmt::format("{} was made with tokenizer {:.12}, checkpoint {} was trained with {:.12}: give that dataset",
                    options.data.string(), manifest.tokenizer_sha256, run.checkpoint.name, tokenizer));
  }
  source = fmt::format("checkpoint {}", options.checkpoint.string());
  name = run.checkpoint.name;
  scheme = run.run.norm.scheme;
  step = run.checkpoint.step;
  warnings_ = run.warnings;
  num_layers_ = run.run.model.num_layers;
  seq_len_ = options.seq_len > 0 ? options.seq_len : run.run.data.seq_len;
  model_ = std::make_unique<Transformer>(run.run.model, run.run.norm, run.vocab_size, run.run.seed);
  Load(SafetensorsReader(run.checkpoint.model_file), model_->parameters());
  OpenRows(options, manifest, run.run.data.form);
}

void Probe::OpenModel(const ProbeOptions& options) {
  const HuggingFaceFolder folder(options.model);
  const Manifest manifest = ReadManifest(options.data);
  if (manifest.vocab_size > folder.vocab_size()) {
    throw PermanentError(
        fmt::format("{} has a vocabulary of {}, {} one of {}: prepare the dataset with the model's own tokenizer",
                    options.data.string(), manifest.vocab_size, options.model.string(), folder.vocab_size()));
  }
  source = fmt::format("model {}", options.model.string());
  scheme = folder.norm().scheme;
  num_layers_ = folder.model().num_layers;
  seq_len_ = options.seq_len > 0 ? options.seq_len : std::min(kSeqLenOfOthers, folder.max_positions());
  model_ = std::make_unique<Transformer>(folder.model(), folder.norm(), folder.vocab_size(), /*seed=*/0);
  Load(folder, model_->parameters());
  OpenRows(options, manifest, DataForm::kPacked);
}

void Probe::OpenRows(const ProbeOptions& options, const Manifest& manifest, DataForm form) {
  reader_ =
      std::make_unique<RowReader>(TokenSplit(options.data, "validation", manifest.validation, manifest.vocab_size),
                                  form, seq_len_, manifest.vocab_size, manifest.eos_id);
  const int64_t num_rows = reader_->NumRows();
  if (num_rows == 0) {
    throw PermanentError(fmt::format("{}: the validation split has {} tokens, too few for one sequence of {}",
                                     options.data.string(), reader_->split().num_tokens(), seq_len_));
  }
  const Permutation order(static_cast<uint64_t>(num_rows), kRowsKey);
  for (int64_t i = 0; i < std::min(num_rows, options.sequences); ++i) {
    rows_.push_back(static_cast<int64_t>(order(static_cast<uint64_t>(i))));
  }
}

ProbeBatch Probe::Batch(int64_t index) {
  const int64_t begin = index * batch_;
  const int64_t count = std::min(batch_, num_sequences() - begin);
  ProbeBatch batch{.inputs = at::empty({count, seq_len_}, at::kLong),
                   .targets = at::empty({count, seq_len_}, at::kLong)};
  const auto places = static_cast<size_t>(seq_len_);
  for (int64_t i = 0; i < count; ++i) {
    reader_->Read(rows_[static_cast<size_t>(begin + i)],
                  std::span(batch.inputs.mutable_data_ptr<int64_t>() + i * seq_len_, places),
                  std::span(batch.targets.mutable_data_ptr<int64_t>() + i * seq_len_, places));
  }
  return batch;
}

BlockStack Probe::Stack() const {
  const Transformer& model = *model_;
  return {.num_layers = num_layers_,
          .embed = [&model](const at::Tensor& inputs) { return model.Embed(inputs); },
          .run_block = [&model](int layer, const at::Tensor& x,
                                int64_t seq_len) { return model.RunBlock(layer, x, seq_len); },
          .loss = [&model](const at::Tensor& x, const at::Tensor& targets) { return model.StreamLoss(x, targets); }};
}

}  // namespace normlab::trainer
