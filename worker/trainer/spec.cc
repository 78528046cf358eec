#include "worker/trainer/spec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/strict_json.h"

namespace normlab::trainer {
namespace {

constexpr int64_t kStepsMax = 1'000'000'000;

ModelSpec ReadModel(StrictObject object) {
  ModelSpec model{
      .family = object.Text("family"),
      .num_layers = static_cast<int>(object.Int("num_layers", 1, 1024)),
      .hidden = object.Int("hidden", 8, 65536),
      .num_heads = object.Int("num_heads", 1, 1024),
      .ffn_hidden = object.Int("ffn_hidden", 8, 262144),
      .rope_base = object.Number("rope_base", 1e-9, 1e12),
      .norm_eps = object.Number("norm_eps", 1e-30, 1),
      .init_std = object.Number("init_std", 1e-30, 10),
      .embed_init_std = object.Number("embed_init_std", 1e-30, 10),
      .max_positions = object.Int("max_positions", 2, 1048576),
      .num_kv_heads = object.Int("num_kv_heads", 0, 1024),
      .softmax_every = object.Int("softmax_every", 1, 1024),
      .num_experts = object.Int("num_experts", 2, 1024),
      .capacity_factor = object.Number("capacity_factor", 1e-9, 1024),
      .balance_coefficient = object.Number("balance_coefficient", 0, 1e6),
  };
  object.Ignore("preset");  // What it gives is in the fields above.
  object.RefuseOthers();
  if (model.hidden % model.num_heads != 0 || model.hidden / model.num_heads % 2 != 0) {
    throw JsonError(fmt::format("{}: is {}, must divide hidden ({}) into an even head size", object.PathOf("num_heads"),
                                model.num_heads, model.hidden));
  }
  return model;
}

NormSpec ReadNorm(StrictObject object) {
  NormSpec norm{
      .scheme = object.Text("scheme"),
      .mix_ln_ratio = object.Number("mix_ln_ratio", 0, 1),
      .final_norm = object.Bool("final_norm"),
      .kind = object.Text("kind"),
      .qk_norm = object.Text("qk_norm"),
      .lns_position = object.Text("lns_position"),
      .gpas = object.Bool("gpas"),
      .embed_norm = object.Bool("embed_norm"),
      .layer_scale_init = object.Number("layer_scale_init", -1e6, 1e6),
      .dyt_alpha_attention = object.Number("dyt_alpha_attention", -1e6, 1e6),
      .dyt_alpha_ffn = object.Number("dyt_alpha_ffn", -1e6, 1e6),
      .dyt_alpha_final = object.Number("dyt_alpha_final", -1e6, 1e6),
      .residual_dtype = object.Text("residual_dtype"),
      .placement = object.Text("placement"),
      .output_scale = object.Text("output_scale"),
      .residual_scale = object.Text("residual_scale"),
      .branch_scale = object.Text("branch_scale"),
      .init_gain = object.Text("init_gain"),
      .init_gain_of = object.Text("init_gain_of"),
      .init_family = object.Text("init_family"),
      .p = object.Number("p", -1e9, 1e9),
      .q = object.Number("q", -1e9, 1e9),
  };
  object.RefuseOthers();
  return norm;
}

DataSpec ReadData(StrictObject object) {
  DataSpec data{.dataset = object.Text("dataset"), .seq_len = object.Int("seq_len", 2, 1048576)};
  const std::string form = object.Text("form");
  if (form != "packed" && form != "documents") {
    throw JsonError(fmt::format("{}: is \"{}\", must be packed or documents", object.PathOf("form"), form));
  }
  data.form = form == "packed" ? DataForm::kPacked : DataForm::kDocuments;
  object.RefuseOthers();
  return data;
}

TrainSpec ReadTrain(StrictObject object) {
  TrainSpec train{
      .steps = object.Int("steps", 1, kStepsMax),
      .batch_size = object.Int("batch_size", 1, 1048576),
      .micro_batch_size = object.Int("micro_batch_size", 0, 1048576),
      .lr = object.Number("lr", 0, 100),
      .lr_min_ratio = object.Number("lr_min_ratio", 0, 1),
      .warmup_steps = object.Int("warmup_steps", 0, kStepsMax),
      .beta1 = object.Number("beta1", 0, 0.999999),
      .beta2 = object.Number("beta2", 0, 0.999999),
      .adam_eps = object.Number("adam_eps", 1e-30, 1),
      .weight_decay = object.Number("weight_decay", 0, 10),
      .grad_norm_max = object.Number("grad_norm_max", 0, 1e9),
      .loss_mean = object.OneOf("loss_mean", {"token", "micro_batch"}),
      .optimizer = object.OneOf("optimizer", {"adamw", "adam"}),
      .schedule = object.OneOf("schedule", {"cosine", "wsd"}),
      .decay_ratio = object.Number("decay_ratio", 0, 1),
      .param_dtype = object.OneOf("param_dtype", {"fp32", "fp32_master", "bf16_pure"}),
      .divergence_loss = object.Number("divergence_loss", 0, 1e9),
      .divergence_steps = object.Int("divergence_steps", 1, kStepsMax),
      .zero_stage = static_cast<int>(object.Int("zero_stage", 0, 1)),
      .init_from = object.Text("init_from"),
  };
  object.RefuseOthers();
  return train;
}

ReportSpec ReadReport(StrictObject object) {
  ReportSpec report{
      .eval_every_steps = object.Int("eval_every_steps", 1, kStepsMax),
      .eval_sequences = object.Int("eval_sequences", 1, 100'000'000),
      .checkpoint_every_steps = object.Int("checkpoint_every_steps", 1, kStepsMax),
      .checkpoints_kept = static_cast<int>(object.Int("checkpoints_kept", 2, 1000)),
      .checkpoints_keep_every_steps = object.Int("checkpoints_keep_every_steps", 0, kStepsMax),
      .step_every_steps = object.Int("step_every_steps", 1, kStepsMax),
      .layers_every_steps = object.Int("layers_every_steps", 1, kStepsMax),
  };
  object.RefuseOthers();
  return report;
}

RunSpec ReadRun(StrictObject object) {
  RunSpec run{
      .model = ReadModel(object.Child("model")),
      .norm = ReadNorm(object.Child("norm")),
      .data = ReadData(object.Child("data")),
      .train = ReadTrain(object.Child("train")),
      .report = ReadReport(object.Child("report")),
      .seed = static_cast<uint64_t>(object.Int("seed")),
  };
  // Placement and retries are the coordinator's affair.
  object.Ignore("resources");
  object.Ignore("retries_max");
  object.RefuseOthers();
  return run;
}

// Proto JSON leaves out a plain field that is zero or empty; these may be.
int64_t IntOrZero(StrictObject& object, const std::string& key, int64_t max) {
  return object.Has(key) ? object.Int(key, 0, max) : 0;
}
std::string TextOrEmpty(StrictObject& object, const std::string& key) {
  return object.Has(key) ? object.Text(key) : std::string();
}

TrainerSpec ReadSpec(StrictObject object) {
  constexpr int64_t kIntMax = 2147483647;
  TrainerSpec spec{
      .run = ReadRun(object.Child("run")),
      .data_dir = object.Text("data_dir"),
      .checkpoint_dir = object.Text("checkpoint_dir"),
      .init_dir = TextOrEmpty(object, "init_dir"),
      .attempt = static_cast<int>(object.Int("attempt", 1, kIntMax)),
      .resume_from_attempt = static_cast<int>(IntOrZero(object, "resume_from_attempt", kIntMax)),
      .rank = static_cast<int>(IntOrZero(object, "rank", kIntMax)),
      .world_size = static_cast<int>(object.Int("world_size", 1, 4096)),
      .rendezvous = TextOrEmpty(object, "rendezvous"),
      .bind_host = TextOrEmpty(object, "bind_host"),
      .threads = static_cast<int>(object.Int("threads", 1, 1024)),
      .device = object.Has("device") ? object.OneOf("device", {"auto", "cpu", "cuda"}) : "auto",
  };
  object.RefuseOthers();
  if (spec.rank >= spec.world_size) {
    throw JsonError(fmt::format("rank: is {}, must be below world_size {}", spec.rank, spec.world_size));
  }
  if (spec.rank > 0 && spec.rendezvous.empty()) {
    throw JsonError(fmt::format("rendezvous: is empty, rank {} needs the address that rank 0 reported", spec.rank));
  }
  if (spec.world_size > 1 && spec.bind_host.empty()) {
    throw JsonError(fmt::format("bind_host: is empty, rank {} of {} needs an address that its peers can connect to",
                                spec.rank, spec.world_size));
  }
  const TrainSpec& train = spec.run.train;
  if (train.init_from.empty() != spec.init_dir.empty()) {
    throw JsonError(fmt::format("init_dir: is \"{}\", run.train.init_from is \"{}\": both must be given or neither",
                                spec.init_dir, train.init_from));
  }
  const int64_t per_forward = (train.micro_batch_size == 0 ? 1 : train.micro_batch_size) * spec.world_size;
  if (train.batch_size % per_forward != 0) {
    throw JsonError(
        fmt::format("run.train.batch_size: is {}, must be a multiple of {} (micro_batch_size {} on each of {} ranks)",
                    train.batch_size, per_forward, train.micro_batch_size, spec.world_size));
  }
  return spec;
}

/// read(document), with what is wrong in the document as a PermanentError.
template <typename Read>
auto ReadDocument(const std::string& json, const Read& read) {
  try {
    const nlohmann::json document = nlohmann::json::parse(json);
    return read(document);
  } catch (const nlohmann::json::exception& error) {
    throw PermanentError(fmt::format("the spec is not JSON: {}", error.what()));
  } catch (const JsonError& error) {
    throw PermanentError(fmt::format("the spec is wrong: {}", error.what()));
  }
}

}  // namespace

TrainerSpec ParseTrainerSpec(const std::string& json) {
  return ReadDocument(json, [](const nlohmann::json& document) {
    TrainerSpec spec = ReadSpec(StrictObject(document, ""));
    spec.run_json = document.at("run").dump();
    return spec;
  });
}

RunSpec ParseRunSpec(const std::string& json) {
  return ReadDocument(json, [](const nlohmann::json& document) { return ReadRun(StrictObject(document, "run")); });
}

}  // namespace normlab::trainer
