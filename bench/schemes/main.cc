// The time of an update under every norm scheme beside that under pre_ln: schemes are to differ in one thing only, and
// not in what they cost. Both models are in one process and take turns update by update, so that a machine whose speed
// drifts slows both; the figure is the median of the ratios of neighbours.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "bench/figures.h"
#include "common/norm_scheme.h"
#include "common/version.h"
#include "worker/trainer/model/transformer.h"
#include "worker/trainer/train/optimizer.h"
#include "worker/trainer/train/tensor_norms.h"
#include "worker/trainer/train/trainer_reports.h"

namespace normlab::bench {
namespace {

using trainer::LayerForwardStats;
using trainer::ModelSpec;
using trainer::NormSpec;
using trainer::Parameter;
using trainer::TrainSpec;

constexpr int64_t kLayersEvery = 10;  // As report.layers_every_steps by default.

struct Options {
  ModelSpec model = {.family = "llama",
                     .num_layers = 12,
                     .hidden = 256,
                     .num_heads = 8,
                     .ffn_hidden = 688,
                     .rope_base = 10000,
                     .norm_eps = 1e-6,
                     .init_std = 0.02,
                     .embed_init_std = 0.02};
  int64_t vocab_size = 4096;
  int64_t seq_len = 256;
  int64_t batch_size = 1;
  int pairs = 40;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<std::string> only;
  std::string json;
};

/// Updates of one model on batches of its own that are the same for all schemes: what Trainer does between reading
/// tokens and reporting.
class Model {
 public:
  Model(const Options& options, const NormSpec& norm)
      : options_(options),
        transformer_(options.model, norm, options.vocab_size, /*seed=*/1),
        optimizer_(transformer_.parameters(), train_, /*rank=*/0, /*world_size=*/1),
        random_(at::detail::createCPUGenerator(1)) {
    for (const Parameter& parameter : transformer_.parameters()) {
      parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor);
    }
    optimizer_.AdoptWeights();
  }

  /// Processor seconds, all threads.
  double Update() {
    const at::Tensor tokens =
        at::randint(options_.vocab_size, {options_.batch_size, options_.seq_len + 1}, random_, at::kLong);
    const double begin = trainer::ProcessCpuSeconds();
    ++step_;
    LayerForwardStats stats;
    std::vector<at::Tensor> gradients;
    for (const Parameter& parameter : transformer_.parameters()) parameter.tensor.mutable_grad().zero_();
    transformer_
        .Loss(tokens.narrow(1, 0, options_.seq_len), tokens.narrow(1, 1, options_.seq_len),
              step_ % kLayersEvery == 0 ? &stats : nullptr)
        .backward();
    const c10::NoGradGuard no_grad;
    for (const Parameter& parameter : transformer_.parameters()) {
      parameter.tensor.mutable_grad() = parameter.tensor.grad().contiguous();
      gradients.push_back(parameter.tensor.grad());
    }
    const double norm = trainer::RootOfSquares(trainer::NormsOf(gradients));
    optimizer_.Step(step_, /*lr=*/1e-4, norm > 1 ? 1 / norm : 1);
    transformer_.AfterUpdate();
    return trainer::ProcessCpuSeconds() - begin;
  }

 private:
  const Options& options_;
  TrainSpec train_ = {
      .beta1 = 0.9, .beta2 = 0.95, .adam_eps = 1e-8, .weight_decay = 0.1, .optimizer = "adamw", .param_dtype = "fp32"};
  trainer::Transformer transformer_;
  trainer::Adam optimizer_;
  at::Generator random_;
  int64_t step_ = 0;
};

struct Variant {
  std::string name;
  NormSpec norm;
};

/// Every row of the table, and what goes with each of them, on pre_ln; pre_ln itself shows what noise is.
std::vector<Variant> AllVariants() {
  std::vector<Variant> variants;
  for (const NormScheme& scheme : kNormSchemes) {
    variants.push_back({std::string(scheme.name), {.scheme = std::string(scheme.name)}});
  }
  variants.push_back({"gpas", {.scheme = "pre_ln", .gpas = true}});
  variants.push_back({"qk_norm_head", {.scheme = "pre_ln", .qk_norm = "head"}});
  variants.push_back({"qk_norm_full", {.scheme = "pre_ln", .qk_norm = "full"}});
  return variants;
}

/// Bounds that hold the median of the distribution with 95% (order statistics of the sample).
Figure WithMedianInterval(const std::string& name, std::vector<double> ratios) {
  Figure figure = Summarize(name, "ratio", ratios);
  std::sort(ratios.begin(), ratios.end());
  const auto n = static_cast<int64_t>(ratios.size());
  const auto reach = static_cast<int64_t>(std::ceil(0.98 * std::sqrt(static_cast<double>(n))));
  figure.min = ratios[static_cast<size_t>(std::max<int64_t>(0, n / 2 - reach))];
  figure.max = ratios[static_cast<size_t>(std::min(n - 1, n / 2 + reach))];
  return figure;
}

Figure Measure(const Options& options, const Variant& variant) {
  Model peer(options, {.scheme = "pre_ln"});
  Model model(options, variant.norm);
  for (int i = 0; i < 3; ++i) peer.Update(), model.Update();
  std::vector<double> ratios;
  for (int i = 0; i < options.pairs; ++i) {
    // Who comes first takes turns too.
    const double first = i % 2 == 0 ? peer.Update() : model.Update();
    const double second = i % 2 == 0 ? model.Update() : peer.Update();
    ratios.push_back(i % 2 == 0 ? second / first : first / second);
  }
  return WithMedianInterval(fmt::format("{}_vs_pre_ln", variant.name), std::move(ratios));
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Processor time of an update under every norm scheme as a ratio to pre_ln's: the median over neighbouring "
      "updates, "
      "and in brackets the 95% interval of that median.");
  app.add_option("--pairs", options.pairs, "Updates of each")->check(CLI::Range(4, 100'000))->capture_default_str();
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--layers", options.model.num_layers)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--hidden", options.model.hidden)->capture_default_str();
  app.add_option("--heads", options.model.num_heads)->capture_default_str();
  app.add_option("--ffn-hidden", options.model.ffn_hidden)->capture_default_str();
  app.add_option("--seq-len", options.seq_len)->capture_default_str();
  app.add_option("--batch-size", options.batch_size)->capture_default_str();
  app.add_option("--vocab-size", options.vocab_size)->capture_default_str();
  app.add_option("--only", options.only, "Schemes to measure; all without it");
  app.add_option("--json", options.json, "Also write the figures with versions and machine to this file");
  CLI11_PARSE(app, argc, argv);

  at::set_num_threads(options.threads);
  std::vector<Figure> figures;
  for (const Variant& variant : AllVariants()) {
    const bool is_wanted =
        options.only.empty() || std::count(options.only.begin(), options.only.end(), variant.name) > 0;
    if (!is_wanted) continue;
    figures.push_back(Measure(options, variant));
    fmt::print("{}\n", ToLine(figures.back()));
    std::fflush(stdout);
  }
  if (options.json.empty()) return 0;
  const absl::Status status = WriteJson(options.json, figures, {{"normlab", kVersion}, {"libtorch", TORCH_VERSION}},
                                        DescribeMachine(std::filesystem::current_path()));
  if (status.ok()) return 0;
  fmt::print(stderr, "normlab-bench-schemes: {}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace normlab::bench

int main(int argc, char** argv) {
  try {
    return normlab::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "normlab-bench-schemes: {}\n", error.what());
    return 1;
  }
}
