#include "worker/trainer/events.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

using nlohmann::ordered_json;

ordered_json Double(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

const char* SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return "INFO";
    case Severity::kWarning:
      return "WARNING";
    case Severity::kError:
      return "ERROR";
  }
  return "ERROR";
}

struct ToJson {
  ordered_json operator()(const RendezvousOpen& e) const { return {{"rendezvous_open", {{"address", e.address}}}}; }
  ordered_json operator()(const Started& e) const {
    return {{"started",
             {{"first_step", e.first_step},
              {"steps", e.steps},
              {"num_parameters", e.num_parameters},
              {"resumed_from", e.resumed_from},
              {"flops_per_token", Double(e.flops_per_token)},
              {"device", e.device},
              {"torch_version", e.torch_version},
              {"peak_flops", Double(e.peak_flops)}}}};
  }
  ordered_json operator()(const StepReport& e) const {
    return {{"step",
             {{"step", e.step},
              {"loss", Double(e.loss)},
              {"lr", Double(e.lr)},
              {"grad_norm", Double(e.grad_norm)},
              {"tokens", e.tokens},
              {"tokens_per_second", Double(e.tokens_per_second)},
              {"step_seconds", Double(e.step_seconds)},
              {"clipped", e.clipped},
              {"clip_fraction", Double(e.clip_fraction)},
              {"data_seconds", Double(e.data_seconds)},
              {"forward_seconds", Double(e.forward_seconds)},
              {"backward_seconds", Double(e.backward_seconds)},
              {"communication_seconds", Double(e.communication_seconds)},
              {"optimizer_seconds", Double(e.optimizer_seconds)},
              {"checkpoint_seconds", Double(e.checkpoint_seconds)},
              {"cpu_seconds", Double(e.cpu_seconds)},
              {"memory_bytes", e.memory_bytes},
              {"flops_utilization", Double(e.flops_utilization)}}}};
  }
  ordered_json operator()(const LayerReport& e) const {
    ordered_json layers = ordered_json::array();
    for (const LayerStats& layer : e.layers) {
      layers.push_back({{"layer", layer.layer},
                        {"output_variance", Double(layer.output_variance)},
                        {"output_mean_square", Double(layer.output_mean_square)},
                        {"attention_mean_square", Double(layer.attention_mean_square)},
                        {"ffn_mean_square", Double(layer.ffn_mean_square)},
                        {"grad_norm", Double(layer.grad_norm)},
                        {"weight_norm", Double(layer.weight_norm)},
                        {"output_variance_median", Double(layer.output_variance_median)},
                        {"output_max_abs", Double(layer.output_max_abs)},
                        {"attention_variance", Double(layer.attention_variance)},
                        {"ffn_variance", Double(layer.ffn_variance)},
                        {"stream_grad_ratio", Double(layer.stream_grad_ratio)}});
      const std::pair<const char*, const std::optional<double>&> optionals[] = {
          {"norm_gain_mean", layer.norm_gain_mean},
          {"norm_gain_min", layer.norm_gain_min},
          {"norm_gain_max", layer.norm_gain_max},
          {"dropped_ratio", layer.dropped_ratio},
          {"attention_scale", layer.attention_scale},
          {"ffn_scale", layer.ffn_scale},
          {"gate", layer.gate},
          {"dyt_alpha", layer.dyt_alpha}};
      for (const auto& [name, value] : optionals) {
        if (value) layers.back()[name] = Double(*value);
      }
    }
    return {{"layers", {{"step", e.step}, {"layers", std::move(layers)}}}};
  }
  ordered_json operator()(const Evaluating& e) const {
    return {{"evaluating", {{"step", e.step}, {"sequences_done", e.sequences_done}, {"sequences", e.sequences}}}};
  }
  ordered_json operator()(const EvalReport& e) const {
    return {{"eval",
             {{"step", e.step},
              {"loss", Double(e.loss)},
              {"perplexity", Double(e.perplexity)},
              {"tokens", e.tokens},
              {"batches", e.batches},
              {"perplexity_official", Double(e.perplexity_official)}}}};
  }
  ordered_json operator()(const CheckpointSaved& e) const {
    return {{"checkpoint",
             {{"step", e.step},
              {"name", e.name},
              {"bytes", e.bytes},
              {"stall_seconds", Double(e.stall_seconds)},
              {"write_seconds", Double(e.write_seconds)}}}};
  }
  ordered_json operator()(const LogLine& e) const {
    return {{"log", {{"severity", SeverityName(e.severity)}, {"text", e.text}}}};
  }
  ordered_json operator()(const Finished& e) const {
    return {{"finished", {{"step", e.step}, {"diverged", e.diverged}}}};
  }
  ordered_json operator()(const Stopped& e) const { return {{"stopped", {{"step", e.step}}}}; }
  ordered_json operator()(const Failed& e) const {
    return {{"failed", {{"message", e.message}, {"step", e.step}, {"retryable", e.retryable}}}};
  }
};

}  // namespace

std::string ToJsonLine(const TrainerEvent& event) {
  // A message may quote bytes of a damaged file; a reader of JSON must get UTF-8 all the same.
  return std::visit(ToJson{}, event).dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void JsonLineSink::Emit(const TrainerEvent& event) {
  const std::string line = ToJsonLine(event);
  const char* next = line.data();
  for (size_t left = line.size(); left > 0;) {
    const ssize_t written = write(fd_, next, left);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw FileError("cannot write an event", errno);
    }
    next += written;
    left -= static_cast<size_t>(written);
  }
}

}  // namespace normlab::trainer
