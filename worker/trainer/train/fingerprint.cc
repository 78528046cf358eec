#include "worker/trainer/train/fingerprint.h"

#include <fmt/format.h>

#include "worker/trainer/train/file_digest.h"

namespace normlab::trainer {
namespace {

std::string DigestOf(const ManifestSplit& split) {
  std::string text;
  for (const ManifestShard& shard : split.shards) text += shard.sha256 + "\n";
  return Sha256Of(text);
}

}  // namespace

Fingerprint FingerprintOf(const RunSpec& run, const Manifest& manifest) {
  Fingerprint fields;
  // fmt writes the shortest text that reads back as the same double.
  const auto add = [&](const char* name, const auto& value) { fields.emplace_back(name, fmt::format("{}", value)); };
  add("model.family", run.model.family);
  add("model.num_layers", run.model.num_layers);
  add("model.hidden", run.model.hidden);
  add("model.num_heads", run.model.num_heads);
  add("model.ffn_hidden", run.model.ffn_hidden);
  add("model.rope_base", run.model.rope_base);
  add("model.norm_eps", run.model.norm_eps);
  add("model.init_std", run.model.init_std);
  add("model.embed_init_std", run.model.embed_init_std);
  add("model.max_positions", run.model.max_positions);
  add("model.num_kv_heads", run.model.num_kv_heads);
  add("model.softmax_every", run.model.softmax_every);
  add("model.num_experts", run.model.num_experts);
  add("model.capacity_factor", run.model.capacity_factor);
  add("model.balance_coefficient", run.model.balance_coefficient);
  add("norm.scheme", run.norm.scheme);
  add("norm.mix_ln_ratio", run.norm.mix_ln_ratio);
  add("norm.final_norm", run.norm.final_norm);
  add("norm.kind", run.norm.kind);
  add("norm.qk_norm", run.norm.qk_norm);
  add("norm.lns_position", run.norm.lns_position);
  add("norm.gpas", run.norm.gpas);
  add("norm.embed_norm", run.norm.embed_norm);
  add("norm.layer_scale_init", run.norm.layer_scale_init);
  add("norm.dyt_alpha_attention", run.norm.dyt_alpha_attention);
  add("norm.dyt_alpha_ffn", run.norm.dyt_alpha_ffn);
  add("norm.dyt_alpha_final", run.norm.dyt_alpha_final);
  add("norm.residual_dtype", run.norm.residual_dtype);
  add("norm.placement", run.norm.placement);
  add("norm.output_scale", run.norm.output_scale);
  add("norm.residual_scale", run.norm.residual_scale);
  add("norm.branch_scale", run.norm.branch_scale);
  add("norm.init_gain", run.norm.init_gain);
  add("norm.init_gain_of", run.norm.init_gain_of);
  add("norm.init_family", run.norm.init_family);
  add("norm.p", run.norm.p);
  add("norm.q", run.norm.q);
  add("data.seq_len", run.data.seq_len);
  add("data.form", run.data.form == DataForm::kPacked ? "packed" : "documents");
  add("the dataset's vocab_size", manifest.vocab_size);
  add("the dataset's training tokens", manifest.train.tokens);
  add("the dataset's tokenizer", manifest.tokenizer_sha256);
  add("the dataset's training shards", DigestOf(manifest.train));
  add("train.steps", run.train.steps);
  add("train.batch_size", run.train.batch_size);
  add("train.lr", run.train.lr);
  add("train.lr_min_ratio", run.train.lr_min_ratio);
  add("train.warmup_steps", run.train.warmup_steps);
  add("train.beta1", run.train.beta1);
  add("train.beta2", run.train.beta2);
  add("train.adam_eps", run.train.adam_eps);
  add("train.weight_decay", run.train.weight_decay);
  add("train.grad_norm_max", run.train.grad_norm_max);
  add("train.loss_mean", run.train.loss_mean);
  add("train.optimizer", run.train.optimizer);
  add("train.schedule", run.train.schedule);
  if (run.train.schedule == "wsd") add("train.decay_ratio", run.train.decay_ratio);
  add("train.param_dtype", run.train.param_dtype);
  add("train.divergence_loss", run.train.divergence_loss);
  if (run.train.divergence_loss > 0) add("train.divergence_steps", run.train.divergence_steps);
  add("train.init_from", run.train.init_from);
  add("seed", run.seed);
  return fields;
}

std::string DigestOf(const Fingerprint& fingerprint) {
  std::string text;
  for (const auto& [field, value] : fingerprint) text += fmt::format("{}={}\n", field, value);
  return Sha256Of(text);
}

}  // namespace normlab::trainer
