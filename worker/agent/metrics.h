// Every metric of the worker, with its help text; the only place that names them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "normlab/v1/worker.pb.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"

namespace normlab::agent {

class RunMetrics;

/// The worker's own series, and the families of the runs'. One thread changes values; scrapes come from any thread.
class Metrics {
 public:
  explicit Metrics(prometheus::Registry& registry);

  void SetInfo(const std::string& worker, const v1::WorkerInfo& info);
  /// `reason`: see ExitReason.
  void CountExit(const std::string& reason);

  prometheus::Gauge& connected;
  prometheus::Gauge& lease_remaining_seconds;
  prometheus::Gauge& reports_pending;
  prometheus::Counter& reports_dropped_total;
  prometheus::Counter& trainer_starts_total;

 private:
  friend class RunMetrics;

  prometheus::Family<prometheus::Gauge>& info_;
  prometheus::Family<prometheus::Counter>& exits_;
  prometheus::Family<prometheus::Gauge>& layer_output_variance_;
  prometheus::Family<prometheus::Gauge>& layer_output_mean_square_;
  prometheus::Family<prometheus::Gauge>& layer_attention_mean_square_;
  prometheus::Family<prometheus::Gauge>& layer_ffn_mean_square_;
  prometheus::Family<prometheus::Gauge>& layer_grad_norm_;
  prometheus::Family<prometheus::Gauge>& train_loss_nats_;
  prometheus::Family<prometheus::Gauge>& train_learning_rate_;
  prometheus::Family<prometheus::Gauge>& train_grad_norm_;
  prometheus::Family<prometheus::Counter>& train_tokens_total_;
  prometheus::Family<prometheus::Gauge>& train_tokens_per_second_;
  prometheus::Family<prometheus::Gauge>& train_step_;
  prometheus::Family<prometheus::Gauge>& train_step_seconds_;
  prometheus::Family<prometheus::Gauge>& eval_loss_nats_;
  prometheus::Family<prometheus::Gauge>& eval_perplexity_;
  prometheus::Family<prometheus::Gauge>& checkpoint_step_;
};

/// The series of one attempt, from the first report of each kind until this object ends. Keeps the references from Add:
/// looking a series up by its labels costs a lock and a hash of all of them.
class RunMetrics {
 public:
  RunMetrics(Metrics& metrics, const std::string& experiment, const std::string& run, const std::string& norm,
             int64_t seed);
  ~RunMetrics();
  RunMetrics(const RunMetrics&) = delete;
  RunMetrics& operator=(const RunMetrics&) = delete;

  void Observe(const v1::TrainerEvent& event);

 private:
  struct Step {
    prometheus::Gauge& loss;
    prometheus::Gauge& lr;
    prometheus::Gauge& grad_norm;
    prometheus::Counter& tokens;
    prometheus::Gauge& tokens_per_second;
    prometheus::Gauge& step;
    prometheus::Gauge& step_seconds;
  };
  struct Layer {
    prometheus::Gauge& output_variance;
    prometheus::Gauge& output_mean_square;
    prometheus::Gauge& attention_mean_square;
    prometheus::Gauge& ffn_mean_square;
    prometheus::Gauge& grad_norm;
  };
  struct Eval {
    prometheus::Gauge& loss;
    prometheus::Gauge& perplexity;
  };

  void ObserveStep(const v1::StepReport& report);
  void ObserveLayers(const v1::LayerReport& report);
  void ObserveEval(const v1::EvalReport& report);
  Layer& LayerSeries(int layer);

  Metrics& metrics_;
  const prometheus::Labels labels_;
  std::optional<Step> step_;
  std::map<int, Layer> layers_;
  std::optional<Eval> eval_;
  prometheus::Gauge* checkpoint_step_ = nullptr;
};

}  // namespace normlab::agent
