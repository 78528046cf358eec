#include "worker/agent/metrics.h"

#include "fmt/format.h"

namespace normlab::agent {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Registry;

Family<Gauge>& Gauges(Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

Family<Counter>& Counters(Registry& registry, const std::string& name, const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics(Registry& registry)
    : connected(
          Gauges(registry, "normlab_worker_connected", "1 while the coordinator has welcomed the session, else 0.")
              .Add({})),
      lease_remaining_seconds(Gauges(registry, "normlab_worker_lease_remaining_seconds",
                                     "Time for which the worker may train without hearing from the coordinator.")
                                  .Add({})),
      reports_pending(Gauges(registry, "normlab_worker_reports_pending",
                             "Reports that the coordinator has not acknowledged as durable.")
                          .Add({})),
      reports_dropped_total(Counters(registry, "normlab_worker_reports_dropped_total",
                                     "Step, layer and log reports dropped because too many waited.")
                                .Add({})),
      trainer_starts_total(
          Counters(registry, "normlab_worker_trainer_starts_total", "Trainer processes started.").Add({})),
      info_(Gauges(registry, "normlab_worker_info", "What the worker is; always 1.")),
      exits_(Counters(registry, "normlab_worker_trainer_exits_total",
                      "Ended attempts by reason: finished, stopped, failed, killed, crashed, not_started.")),
      layer_output_variance_(Gauges(registry, "normlab_layer_output_variance",
                                    "Variance over hidden of a layer's output, mean over tokens.")),
      layer_output_mean_square_(
          Gauges(registry, "normlab_layer_output_mean_square", "Mean square of a layer's output.")),
      layer_attention_mean_square_(Gauges(registry, "normlab_layer_attention_mean_square",
                                          "Mean square of what attention adds to the residual stream.")),
      layer_ffn_mean_square_(Gauges(registry, "normlab_layer_ffn_mean_square",
                                    "Mean square of what the feed-forward network adds to the residual stream.")),
      layer_grad_norm_(
          Gauges(registry, "normlab_layer_grad_norm", "Norm of the gradient of all parameters of a layer.")),
      train_loss_nats_(Gauges(registry, "normlab_train_loss_nats", "Mean training loss of the last update per token.")),
      train_learning_rate_(Gauges(registry, "normlab_train_learning_rate", "Learning rate of the last update.")),
      train_grad_norm_(Gauges(registry, "normlab_train_grad_norm", "Global gradient norm before clipping.")),
      train_tokens_total_(
          Counters(registry, "normlab_train_tokens_total", "Tokens predicted since the first step of the run.")),
      train_tokens_per_second_(Gauges(registry, "normlab_train_tokens_per_second",
                                      "Tokens per second of all ranks, since the last report.")),
      train_step_(Gauges(registry, "normlab_train_step", "Last update, from 1.")),
      train_step_seconds_(Gauges(registry, "normlab_train_step_seconds", "Duration of the last update.")),
      eval_loss_nats_(
          Gauges(registry, "normlab_eval_loss_nats", "Mean loss per token of the last evaluation on held-out text.")),
      eval_perplexity_(Gauges(registry, "normlab_eval_perplexity", "exp of the loss of the last evaluation.")),
      checkpoint_step_(Gauges(registry, "normlab_checkpoint_step", "Update that the last complete checkpoint holds.")) {
}

void Metrics::SetInfo(const std::string& worker, const v1::WorkerInfo& info) {
  info_.Add({{"worker", worker}, {"host", info.host()}, {"device", info.device()}, {"version", info.build()}}).Set(1);
}

void Metrics::CountExit(const std::string& reason) { exits_.Add({{"reason", reason}}).Increment(); }

RunMetrics::RunMetrics(Metrics& metrics, const std::string& experiment, const std::string& run, const std::string& norm,
                       int64_t seed)
    : metrics_(metrics),
      labels_({{"experiment", experiment}, {"run", run}, {"norm", norm}, {"seed", fmt::format("{}", seed)}}) {}

RunMetrics::~RunMetrics() {
  if (step_) {
    metrics_.train_loss_nats_.Remove(&step_->loss);
    metrics_.train_learning_rate_.Remove(&step_->lr);
    metrics_.train_grad_norm_.Remove(&step_->grad_norm);
    metrics_.train_tokens_total_.Remove(&step_->tokens);
    metrics_.train_tokens_per_second_.Remove(&step_->tokens_per_second);
    metrics_.train_step_.Remove(&step_->step);
    metrics_.train_step_seconds_.Remove(&step_->step_seconds);
  }
  for (auto& [layer, series] : layers_) {
    metrics_.layer_output_variance_.Remove(&series.output_variance);
    metrics_.layer_output_mean_square_.Remove(&series.output_mean_square);
    metrics_.layer_attention_mean_square_.Remove(&series.attention_mean_square);
    metrics_.layer_ffn_mean_square_.Remove(&series.ffn_mean_square);
    metrics_.layer_grad_norm_.Remove(&series.grad_norm);
  }
  if (eval_) {
    metrics_.eval_loss_nats_.Remove(&eval_->loss);
    metrics_.eval_perplexity_.Remove(&eval_->perplexity);
  }
  if (checkpoint_step_ != nullptr) metrics_.checkpoint_step_.Remove(checkpoint_step_);
}

void RunMetrics::Observe(const v1::TrainerEvent& event) {
  switch (event.event_case()) {
    case v1::TrainerEvent::kStep:
      return ObserveStep(event.step());
    case v1::TrainerEvent::kLayers:
      return ObserveLayers(event.layers());
    case v1::TrainerEvent::kEval:
      return ObserveEval(event.eval());
    case v1::TrainerEvent::kCheckpoint:
      if (checkpoint_step_ == nullptr) checkpoint_step_ = &metrics_.checkpoint_step_.Add(labels_);
      checkpoint_step_->Set(static_cast<double>(event.checkpoint().step()));
      return;
    default:
      return;
  }
}

void RunMetrics::ObserveStep(const v1::StepReport& report) {
  if (!step_) {
    step_.emplace(Step{.loss = metrics_.train_loss_nats_.Add(labels_),
                       .lr = metrics_.train_learning_rate_.Add(labels_),
                       .grad_norm = metrics_.train_grad_norm_.Add(labels_),
                       .tokens = metrics_.train_tokens_total_.Add(labels_),
                       .tokens_per_second = metrics_.train_tokens_per_second_.Add(labels_),
                       .step = metrics_.train_step_.Add(labels_),
                       .step_seconds = metrics_.train_step_seconds_.Add(labels_)});
  }
  step_->loss.Set(report.loss());
  step_->lr.Set(report.lr());
  step_->grad_norm.Set(report.grad_norm());
  // A counter cannot be set; Increment ignores what is negative.
  step_->tokens.Increment(static_cast<double>(report.tokens()) - step_->tokens.Value());
  step_->tokens_per_second.Set(report.tokens_per_second());
  step_->step.Set(static_cast<double>(report.step()));
  step_->step_seconds.Set(report.step_seconds());
}

void RunMetrics::ObserveLayers(const v1::LayerReport& report) {
  for (const v1::LayerStats& stats : report.layers()) {
    const Layer& series = LayerSeries(stats.layer());
    series.output_variance.Set(stats.output_variance());
    series.output_mean_square.Set(stats.output_mean_square());
    series.attention_mean_square.Set(stats.attention_mean_square());
    series.ffn_mean_square.Set(stats.ffn_mean_square());
    series.grad_norm.Set(stats.grad_norm());
  }
}

RunMetrics::Layer& RunMetrics::LayerSeries(int layer) {
  const auto it = layers_.find(layer);
  if (it != layers_.end()) return it->second;
  prometheus::Labels labels = labels_;
  labels["layer"] = fmt::format("{}", layer);
  return layers_
      .emplace(layer, Layer{.output_variance = metrics_.layer_output_variance_.Add(labels),
                            .output_mean_square = metrics_.layer_output_mean_square_.Add(labels),
                            .attention_mean_square = metrics_.layer_attention_mean_square_.Add(labels),
                            .ffn_mean_square = metrics_.layer_ffn_mean_square_.Add(labels),
                            .grad_norm = metrics_.layer_grad_norm_.Add(labels)})
      .first->second;
}

void RunMetrics::ObserveEval(const v1::EvalReport& report) {
  if (!eval_) {
    eval_.emplace(
        Eval{.loss = metrics_.eval_loss_nats_.Add(labels_), .perplexity = metrics_.eval_perplexity_.Add(labels_)});
  }
  eval_->loss.Set(report.loss());
  eval_->perplexity.Set(report.perplexity());
}

}  // namespace normlab::agent
