#include "worker/trainer/testing/tiny_dataset.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/token_shard.h"
#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

ManifestShard WriteShard(const std::filesystem::path& path, uint32_t first, uint32_t count) {
  TokenShardWriter writer(path, 2);
  std::vector<uint32_t> tokens;
  for (uint32_t i = first; i < first + count; ++i) {
    const uint32_t noise = (i * 2654435761u) >> 30;
    tokens.push_back((i + noise) % static_cast<uint32_t>(kTinyVocabSize));
  }
  writer.AppendDocument(tokens);
  writer.Finish();
  return {.file = path.filename().string(), .tokens = count, .documents = 1};
}

ManifestShard WritePromptShard(const std::filesystem::path& path, uint32_t count) {
  TokenShardWriter writer(path, 2, /*has_mask=*/true);
  uint32_t next = 0;
  int64_t documents = 0;
  for (; next < count; ++documents) {
    const uint32_t hash = static_cast<uint32_t>(documents + 1) * 2654435761u;
    const uint32_t size = std::min(3 + (hash >> 8) % 18, count - next);
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < size; ++i) tokens.push_back((next + i) % static_cast<uint32_t>(kTinyVocabSize));
    writer.AppendDocument(tokens, (hash >> 16) % size);
    next += size;
  }
  writer.Finish();
  return {.file = path.filename().string(), .tokens = count, .documents = documents};
}

Manifest TinyManifest(const std::filesystem::path& folder) {
  Manifest manifest{
      .vocab_size = kTinyVocabSize, .eos_id = 1, .tokenizer_file = "tokenizer.model", .tokenizer_sha256 = Sha256Of("")};
  manifest.source = nlohmann::json::object();
  std::filesystem::create_directories(folder);
  WriteFileDurably(folder / manifest.tokenizer_file, "");
  return manifest;
}

}  // namespace

void WriteTinyDataset(const std::filesystem::path& folder) {
  Manifest manifest = TinyManifest(folder);
  manifest.train = {
      .tokens = 2000,
      .documents = 2,
      .shards = {WriteShard(folder / "train-00000.bin", 0, 1500), WriteShard(folder / "train-00001.bin", 1500, 500)}};
  manifest.validation = {
      .tokens = 500, .documents = 1, .shards = {WriteShard(folder / "validation-00000.bin", 7, 500)}};
  WriteManifest(folder, manifest);
}

void WriteTinyPromptDataset(const std::filesystem::path& folder) {
  std::filesystem::remove_all(folder);
  Manifest manifest = TinyManifest(folder);
  const ManifestShard train = WritePromptShard(folder / "train-00000.bin", 2000);
  const ManifestShard validation = WritePromptShard(folder / "validation-00000.bin", 500);
  manifest.train = {.tokens = train.tokens, .documents = train.documents, .shards = {train}};
  manifest.validation = {.tokens = validation.tokens, .documents = validation.documents, .shards = {validation}};
  WriteManifest(folder, manifest);
}

TrainerSpec TinySpec(const std::filesystem::path& folder) {
  return {.run = {.model = {.family = "llama",
                            .num_layers = 2,
                            .hidden = 16,
                            .num_heads = 2,
                            .ffn_hidden = 32,
                            .rope_base = 10000,
                            .norm_eps = 1e-6,
                            .init_std = 0.02,
                            .embed_init_std = 0.02,
                            .max_positions = 16,
                            .num_kv_heads = 0,
                            .softmax_every = 8,
                            .num_experts = 8,
                            .capacity_factor = 1.25,
                            .balance_coefficient = 0.01},
                  .norm = {.scheme = "lns", .mix_ln_ratio = 0.25, .final_norm = true},
                  .data = {.dataset = "tiny", .seq_len = 8, .form = DataForm::kPacked},
                  .train = {.steps = 12,
                            .batch_size = 4,
                            .micro_batch_size = 0,
                            .lr = 0.01,
                            .lr_min_ratio = 0.1,
                            .warmup_steps = 2,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .adam_eps = 1e-8,
                            .weight_decay = 0.1,
                            .grad_norm_max = 1,
                            .loss_mean = "token",
                            .optimizer = "adamw",
                            .schedule = "cosine",
                            .decay_ratio = 0.2,
                            .param_dtype = "fp32",
                            .divergence_loss = 0,
                            .divergence_steps = 100,
                            .zero_stage = 0,
                            .init_from = ""},
                  .report = {.eval_every_steps = 6,
                             .eval_sequences = 10,
                             .checkpoint_every_steps = 4,
                             .checkpoints_kept = 2,
                             .checkpoints_keep_every_steps = 0,
                             .step_every_steps = 1,
                             .layers_every_steps = 6},
                  .seed = 1},
          .data_dir = (folder / "data").string(),
          .checkpoint_dir = (folder / "checkpoints").string(),
          .init_dir = "",
          .attempt = 1,
          .resume_from_attempt = 1,
          .rank = 0,
          .world_size = 1,
          .rendezvous = "",
          .bind_host = "127.0.0.1",
          .threads = 1};
}

std::string ToJson(const TrainerSpec& spec) {
  const RunSpec& run = spec.run;
  const nlohmann::json document = {{"run",
                                    {{"model",
                                      {{"family", run.model.family},
                                       {"num_layers", run.model.num_layers},
                                       {"hidden", run.model.hidden},
                                       {"num_heads", run.model.num_heads},
                                       {"ffn_hidden", run.model.ffn_hidden},
                                       {"rope_base", run.model.rope_base},
                                       {"norm_eps", run.model.norm_eps},
                                       {"init_std", run.model.init_std},
                                       {"embed_init_std", run.model.embed_init_std},
                                       {"max_positions", run.model.max_positions},
                                       {"num_kv_heads", run.model.num_kv_heads},
                                       {"softmax_every", run.model.softmax_every},
                                       {"num_experts", run.model.num_experts},
                                       {"capacity_factor", run.model.capacity_factor},
                                       {"balance_coefficient", run.model.balance_coefficient}}},
                                     {"norm",
                                      {{"scheme", run.norm.scheme},
                                       {"mix_ln_ratio", run.norm.mix_ln_ratio},
                                       {"final_norm", run.norm.final_norm},
                                       {"kind", run.norm.kind},
                                       {"qk_norm", run.norm.qk_norm},
                                       {"lns_position", run.norm.lns_position},
                                       {"gpas", run.norm.gpas},
                                       {"embed_norm", run.norm.embed_norm},
                                       {"layer_scale_init", run.norm.layer_scale_init},
                                       {"dyt_alpha_attention", run.norm.dyt_alpha_attention},
                                       {"dyt_alpha_ffn", run.norm.dyt_alpha_ffn},
                                       {"dyt_alpha_final", run.norm.dyt_alpha_final},
                                       {"residual_dtype", run.norm.residual_dtype},
                                       {"placement", run.norm.placement},
                                       {"output_scale", run.norm.output_scale},
                                       {"residual_scale", run.norm.residual_scale},
                                       {"branch_scale", run.norm.branch_scale},
                                       {"init_gain", run.norm.init_gain},
                                       {"init_gain_of", run.norm.init_gain_of},
                                       {"init_family", run.norm.init_family},
                                       {"p", run.norm.p},
                                       {"q", run.norm.q}}},
                                     {"data",
                                      {{"dataset", run.data.dataset},
                                       {"seq_len", run.data.seq_len},
                                       {"form", run.data.form == DataForm::kPacked ? "packed" : "documents"}}},
                                     {"train",
                                      {{"steps", run.train.steps},
                                       {"batch_size", run.train.batch_size},
                                       {"micro_batch_size", run.train.micro_batch_size},
                                       {"lr", run.train.lr},
                                       {"lr_min_ratio", run.train.lr_min_ratio},
                                       {"warmup_steps", run.train.warmup_steps},
                                       {"beta1", run.train.beta1},
                                       {"beta2", run.train.beta2},
                                       {"adam_eps", run.train.adam_eps},
                                       {"weight_decay", run.train.weight_decay},
                                       {"grad_norm_max", run.train.grad_norm_max},
                                       {"loss_mean", run.train.loss_mean},
                                       {"optimizer", run.train.optimizer},
                                       {"schedule", run.train.schedule},
                                       {"decay_ratio", run.train.decay_ratio},
                                       {"param_dtype", run.train.param_dtype},
                                       {"divergence_loss", run.train.divergence_loss},
                                       {"divergence_steps", run.train.divergence_steps},
                                       {"zero_stage", run.train.zero_stage},
                                       {"init_from", run.train.init_from}}},
                                     {"report",
                                      {{"eval_every_steps", run.report.eval_every_steps},
                                       {"eval_sequences", run.report.eval_sequences},
                                       {"checkpoint_every_steps", run.report.checkpoint_every_steps},
                                       {"checkpoints_kept", run.report.checkpoints_kept},
                                       {"checkpoints_keep_every_steps", run.report.checkpoints_keep_every_steps},
                                       {"step_every_steps", run.report.step_every_steps},
                                       {"layers_every_steps", run.report.layers_every_steps}}},
                                     // 64-bit numbers as text and fields of others, as the coordinator writes them.
                                     {"resources", {{"workers", spec.world_size}}},
                                     {"seed", std::to_string(run.seed)},
                                     {"retries_max", 3}}},
                                   {"data_dir", spec.data_dir},
                                   {"checkpoint_dir", spec.checkpoint_dir},
                                   {"init_dir", spec.init_dir},
                                   {"attempt", spec.attempt},
                                   {"resume_from_attempt", spec.resume_from_attempt},
                                   {"rank", spec.rank},
                                   {"world_size", spec.world_size},
                                   {"rendezvous", spec.rendezvous},
                                   {"bind_host", spec.bind_host},
                                   {"threads", spec.threads}};
  return document.dump();
}

}  // namespace normlab::trainer
