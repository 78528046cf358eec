// normlab-analyze: the process behind `normlab analyze`.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "worker/trainer/diagnostics/analysis.h"
#include "worker/trainer/diagnostics/analysis_files.h"
#include "worker/trainer/diagnostics/probe.h"

namespace normlab::trainer {
namespace {

constexpr char kHelp[] =
    R"(Exit status: 0 done; 1 failed; 2 wrong usage. What is measured, and how: docs/analyze.md.

Examples:
  normlab-analyze --checkpoint .normlab/checkpoints/exp-0001.01 --data .normlab/data/docs --out analysis/lns
  normlab-analyze --model llama-folder --data .normlab/data/docs --out analysis/llama --only variance,angular)";

constexpr int kFailed = 1, kUsage = 2;

// By the names of --only.
struct Part {
  const char* name;
  bool AnalysisOptions::*is_wanted;
};
constexpr Part kParts[] = {{"variance", &AnalysisOptions::variance},
                           {"angular", &AnalysisOptions::angular_distance},
                           {"removal", &AnalysisOptions::layer_removal},
                           {"gradients", &AnalysisOptions::gradients},
                           {"jacobian", &AnalysisOptions::jacobian}};

struct Flags {
  ProbeOptions probe;
  AnalysisOptions analysis;
  std::string out;
  std::vector<std::string> only;
  int threads = 0;
  bool is_json = false;
};

/// On a terminal one line that is drawn again, elsewhere a line for each part.
class Progress {
 public:
  explicit Progress(bool is_silent) : is_silent_(is_silent), is_live_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (is_live_ && !what_.empty()) fmt::print(stderr, "\r\033[K");
  }
  void Show(const std::string& what, double fraction) {
    if (is_silent_) return;
    const bool is_new = what != what_;
    what_ = what;
    if (is_live_) fmt::print(stderr, "\r\033[K{}: {:.0f}%", what, 100 * fraction);
    if (!is_live_ && is_new) fmt::print(stderr, "{} ...\n", what);
    std::fflush(stderr);
  }

 private:
  bool is_silent_;
  bool is_live_;
  std::string what_;
};

void PrintFit(const char* name, const std::optional<GrowthFit>& fit) {
  if (!fit) return;
  fmt::print("{}: {:.4g} l^{:.3f} (R^2 {:.3f}) or {:.4g} e^({:.4f} l) (R^2 {:.3f})\n", name, fit->power.c,
             fit->power.rate, fit->power.r_squared, fit->exponential.c, fit->exponential.rate,
             fit->exponential.r_squared);
}

void PrintTable(const Analysis& analysis) {
  const auto cell = [](bool is_there, auto value) { return is_there ? fmt::format("{:>10.4g}", value()) : ""; };
  const bool has_variance = !analysis.boundaries.empty(), has_angles = !analysis.angular_all.empty();
  const auto title = [](bool is_there, const char* text) { return is_there ? fmt::format("{:>10}", text) : ""; };
  fmt::print("LAYER{}{}{}{}{}{}\n", title(has_variance, "VARIANCE"), title(has_variance, "MEDIAN"),
             title(has_angles, "ANGLE"), title(!analysis.loss_without.empty(), "LOSS+"),
             title(!analysis.layer_gradients.empty(), "GRADIENT"),
             title(!analysis.jacobian_median.empty(), "JACOBIAN"));
  for (int layer = 1; layer <= analysis.num_layers; ++layer) {
    fmt::print("{:>5}{}{}{}{}{}{}\n", layer,
               cell(has_variance, [&] { return analysis.boundaries[layer].all.variance_mean; }),
               cell(has_variance, [&] { return analysis.boundaries[layer].all.variance_median; }),
               cell(has_angles, [&] { return analysis.angular_all[layer - 1][0]; }),
               cell(!analysis.loss_without.empty(), [&] { return analysis.loss_without[layer - 1] - analysis.loss; }),
               cell(!analysis.layer_gradients.empty(), [&] { return analysis.layer_gradients[layer - 1]; }),
               cell(!analysis.jacobian_median.empty(), [&] { return analysis.jacobian_median[layer - 1]; }));
  }
  PrintFit("variance grows as", analysis.variance_growth);
  PrintFit("without position 0", analysis.variance_growth_without_first);
}

int Run(const Flags& flags) {
  const auto begin = std::chrono::steady_clock::now();
  at::set_num_threads(flags.threads);
  Analysis analysis;
  Probe probe(flags.probe);
  for (const std::string& warning : probe.warnings()) fmt::print(stderr, "note: {}\n", warning);
  {
    Progress progress(flags.is_json);
    analysis = Analyze(probe, flags.analysis,
                       [&](const std::string& what, double fraction) { progress.Show(what, fraction); });
  }
  const AnalysisOrigin origin{.source = probe.source,
                              .name = probe.name,
                              .step = probe.step,
                              .scheme = probe.scheme,
                              .dataset = flags.probe.data.string()};
  const std::vector<std::string> files = WriteAnalysis(flags.out, origin, analysis);
  if (flags.is_json) {
    fmt::print("{}\n", AnalysisJson(origin, analysis).dump(1));
    return 0;
  }
  PrintTable(analysis);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("{}: {} of {}, loss {:.4f} on {} tokens ({} sequences), {:.1f} s\n", probe.source, probe.scheme,
             probe.name.empty() ? "transformers" : probe.name, analysis.loss, analysis.tokens, analysis.sequences,
             seconds);
  std::fflush(stdout);
  fmt::print(stderr, "written to {}: {}\n", flags.out, fmt::join(files, " "));
  return 0;
}

void AddFlags(CLI::App* app, Flags* flags) {
  auto* source = app->add_option_group("source", "What to look at")->require_option(1);
  source
      ->add_option("--checkpoint", flags->probe.checkpoint,
                   "A checkpoint, or a run's folder of them (the newest good one)")
      ->type_name("DIR");
  source->add_option("--model", flags->probe.model, "A Llama of the transformers library: safetensors and config.json")
      ->type_name("DIR");
  app->add_option("--data", flags->probe.data, "Dataset whose validation split is read")->required()->type_name("DIR");
  app->add_option("--out", flags->out, "Folder for the results")->required()->type_name("DIR");
  app->add_option("--sequences", flags->probe.sequences, "Sequences to look at")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  app->add_option("--batch", flags->probe.batch, "Sequences of one forward")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app->add_option("--seq-len", flags->probe.seq_len, "Tokens of a sequence (default: the run's; 256 with --model)")
      ->check(CLI::Range(2, 1 << 20));
  app->add_option("--only", flags->only, "Only these: variance, angular, removal, gradients, jacobian")
      ->delimiter(',')
      ->check(CLI::IsMember({"variance", "angular", "removal", "gradients", "jacobian"}));
  app->add_option("--jacobian-tokens", flags->analysis.jacobian_tokens, "Tokens at which Jacobians are probed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--jacobian-probes", flags->analysis.jacobian_probes, "Random directions at each of them")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--threads", flags->threads, "Threads (default: all cores)")->check(CLI::Range(1, 1024));
  app->add_flag("--json", flags->is_json, "Print analysis.json, and no progress");
}

}  // namespace
}  // namespace normlab::trainer

int main(int argc, char** argv) {
  using namespace normlab::trainer;  // NOLINT(build/namespaces)
  CLI::App app("Measures what the layers of a trained model do.", "normlab-analyze");
  app.footer(kHelp);
  Flags flags;
  flags.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : kUsage;
  }
  const std::set<std::string> only(flags.only.begin(), flags.only.end());
  for (const Part& part : kParts) flags.analysis.*part.is_wanted = only.empty() || only.contains(part.name);
  try {
    return Run(flags);
  } catch (const std::exception& error) {
    // LibTorch appends a backtrace; the first line says what.
    const std::string message = error.what();
    fmt::print(stderr, "normlab-analyze: {}\n", message.substr(0, message.find('\n')));
    return kFailed;
  }
}
