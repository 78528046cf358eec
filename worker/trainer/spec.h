#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/norm_scheme.h"

// What a trainer is told: plain structs with the names of proto/normlab/v1/experiment.proto and trainer_event.proto,
// where each field is documented. No defaults here: the coordinator stores complete specs, and a missing key is an
// error.
namespace normlab::trainer {

struct ModelSpec {
  std::string family;
  int num_layers;
  int64_t hidden;
  int64_t num_heads;
  int64_t ffn_hidden;
  double rope_base;
  double norm_eps;
  double init_std;
  double embed_init_std;
  int64_t max_positions;  // gpt2
  int64_t num_kv_heads;   // minimax, as all below. 0: as many as num_heads.
  int64_t softmax_every;
  int64_t num_experts;
  double capacity_factor;
  double balance_coefficient;
};

using normlab::NormSpec;

enum class DataForm { kPacked, kDocuments };

struct DataSpec {
  std::string dataset;
  int64_t seq_len;
  DataForm form;
};

struct TrainSpec {
  int64_t steps;
  int64_t batch_size;
  int64_t micro_batch_size;  // 0: one forward per update.
  double lr;
  double lr_min_ratio;
  int64_t warmup_steps;
  double beta1;
  double beta2;
  double adam_eps;
  double weight_decay;
  double grad_norm_max;  // 0: no clipping.
  std::string loss_mean;
  std::string optimizer;
  std::string schedule;
  double decay_ratio;
  std::string param_dtype;
  double divergence_loss;  // 0: only a loss that is not finite.
  int64_t divergence_steps;
  int zero_stage;
  std::string init_from;  // Empty: weights are drawn from the seed.
};

struct ReportSpec {
  int64_t eval_every_steps;
  int64_t eval_sequences;
  int64_t checkpoint_every_steps;
  int checkpoints_kept;
  int64_t checkpoints_keep_every_steps;  // 0: none is kept for ever.
  int64_t step_every_steps;
  int64_t layers_every_steps;
};

struct RunSpec {
  ModelSpec model;
  NormSpec norm;
  DataSpec data;
  TrainSpec train;
  ReportSpec report;
  uint64_t seed;
};

struct TrainerSpec {
  RunSpec run;
  std::string data_dir;
  std::string checkpoint_dir;
  std::string init_dir;  // Where run.train.init_from lies; empty if that is.
  int attempt;
  int resume_from_attempt;
  int rank;
  int world_size;
  std::string rendezvous;  // Empty on rank 0.
  std::string bind_host;
  int threads;
  std::string device = "auto";  // auto, cpu or cuda.
  std::string run_json;  // `run` as it was given; checkpoints keep it. Empty if the spec was not read from JSON.
};

/// A spec, dataset or checkpoint that would fail again in the same way; `main` reports it as not retryable.
struct PermanentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Reads a TrainerSpec from JSON text. Strict: a missing or unknown key, or a wrong type, throws PermanentError with
/// the key's path.
TrainerSpec ParseTrainerSpec(const std::string& json);

/// Reads the `run` of a TrainerSpec, as checkpoints keep it. Throws as ParseTrainerSpec does.
RunSpec ParseRunSpec(const std::string& json);

}  // namespace normlab::trainer
