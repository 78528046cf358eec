#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/version.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>

#include "common/durable_file.h"
#include "worker/trainer/device/run_device.h"
#include "worker/trainer/events.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/trainer.h"

namespace normlab::trainer {
namespace {

constexpr char kExample[] =
    R"(Trains one run. Reads the spec (JSON of TrainerSpec in normlab/v1/trainer_event.proto), writes one JSON line per event.
Killed, it goes on from its newest checkpoint when called again. SIGTERM or Ctrl-C: checkpoint, then end.
Exit status: 0 finished, diverged or stopped; 1 failed (the last line says why and whether to retry); 2 wrong usage.

Example: dataset made by `normlab data prepare` in data/linux-doc, spec in run.json:
  {"run": {
     "model": {"family": "llama", "num_layers": 12, "hidden": 64, "num_heads": 4, "ffn_hidden": 176,
               "rope_base": 10000, "norm_eps": 1e-6, "init_std": 0.02, "embed_init_std": 0.02,
               "max_positions": 1024, "num_kv_heads": 0, "softmax_every": 8, "num_experts": 8,
               "capacity_factor": 1.25, "balance_coefficient": 0.01},
     "norm": {"scheme": "lns", "mix_ln_ratio": 0.25, "final_norm": true, "kind": "rmsnorm", "qk_norm": "none",
              "lns_position": "after_norm", "gpas": false, "embed_norm": false, "layer_scale_init": 0.001,
              "dyt_alpha_attention": 0.8, "dyt_alpha_ffn": 0.2, "dyt_alpha_final": 0.2, "residual_dtype": "fp32",
              "placement": "pre", "output_scale": "1", "residual_scale": "1", "branch_scale": "1", "init_gain": "1",
              "init_gain_of": "outputs", "init_family": "normal", "p": 0, "q": 0},
     "data": {"dataset": "linux-doc", "seq_len": 128},
     "train": {"steps": 200, "batch_size": 16, "micro_batch_size": 0, "lr": 0.002, "lr_min_ratio": 0.1,
               "warmup_steps": 20, "beta1": 0.9, "beta2": 0.95, "adam_eps": 1e-8, "weight_decay": 0.1,
               "grad_norm_max": 1, "loss_mean": "token", "optimizer": "adamw", "schedule": "cosine", "decay_ratio": 0.2,
               "param_dtype": "fp32", "divergence_loss": 0, "divergence_steps": 100, "zero_stage": 0, "init_from": ""},
     "report": {"eval_every_steps": 100, "eval_sequences": 64, "checkpoint_every_steps": 100,
                "checkpoints_kept": 2, "checkpoints_keep_every_steps": 0, "step_every_steps": 10, "layers_every_steps": 50},
     "seed": 1},
   "data_dir": "data/linux-doc", "checkpoint_dir": "checkpoints", "attempt": 1, "world_size": 1, "threads": 2}

  normlab-train --spec run.json | jq -c 'select(.step) | .step | [.step, .loss]'
)";

std::atomic<bool> stop_requested{false};
std::atomic<bool> is_training{false};
int events_fd = STDOUT_FILENO;
static_assert(std::atomic<bool>::is_always_lock_free, "read by a signal handler");

/// Before training there is nothing to save, and waiting for a gang cannot be interrupted otherwise.
constexpr char kStoppedBeforeTraining[] = "{\"stopped\":{\"step\":0}}\n";

void OnStopSignal(int) {
  if (is_training) {
    stop_requested = true;
    return;
  }
  if (write(events_fd, kStoppedBeforeTraining, sizeof(kStoppedBeforeTraining) - 1) < 0) _exit(1);
  _exit(0);
}

void InstallSignalHandlers() {
  struct sigaction action = {};
  action.sa_handler = OnStopSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

void TuneProcess(int threads) {
  // Activations of one step are freed and wanted again in the next; glibc may give large ones back to the kernel each
  // time. Measured at 12 layers of hidden 128: a third of the page faults, 1% of the time.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
  at::set_num_interop_threads(1);
  at::set_num_threads(threads);
  // Before the first parallel region, so that its threads inherit it: moments of rare tokens decay into denormals,
  // which some processors add and multiply in microcode.
  at::globalContext().setFlushDenormal(true);
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw PermanentError(fmt::format("cannot open {}: {}", path, std::generic_category().message(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

int OpenEvents(const std::string& path) {
  if (path == "-") return STDOUT_FILENO;
  return open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/// LibTorch appends a C++ backtrace to its messages; the first line says what.
std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

int Train(const std::string& spec_path) {
  JsonLineSink events(events_fd);
  std::optional<Trainer> trainer;
  const auto fail = [&](const std::string& message, bool is_retryable) {
    const int64_t step = trainer ? trainer->step() : 0;
    try {
      events.Emit(Failed{.message = message, .step = step, .retryable = is_retryable});
    } catch (const FileError& error) {
      fmt::print(stderr, "normlab-train: {} (after: {})\n", error.what(), message);
    }
    // No destructors: a process group waits there for peers that may be gone.
    _exit(1);
  };
  try {
    const TrainerSpec spec = ParseTrainerSpec(ReadText(spec_path));
    TuneProcess(spec.threads);
    trainer.emplace(spec, events, stop_requested);
    is_training = true;
    trainer->Run();
  } catch (const PermanentError& error) {
    fail(error.what(), /*is_retryable=*/false);
  } catch (const DatasetError& error) {
    fail(error.what(), /*is_retryable=*/false);
  } catch (const std::exception& error) {
    fail(FirstLine(error.what()), /*is_retryable=*/true);
  }
  return 0;
}

}  // namespace
}  // namespace normlab::trainer

int main(int argc, char** argv) {
  using namespace normlab::trainer;
  CLI::App app("normlab-train");
  std::string spec_path, events_path = "-";
  bool is_probe = false;
  app.footer(kExample);
  app.add_option("--spec", spec_path, "JSON file that says what to train");
  app.add_flag("--probe-device", is_probe,
               "Print one line of JSON about the GPU that it would use, or what that lacks");
  app.add_option("--events", events_path, "Where events go: a file (appended to), or - for standard output");
  app.set_version_flag("--version", fmt::format("normlab-train {} (LibTorch {})", NORMLAB_VERSION, TORCH_VERSION));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (is_probe) {
    fmt::print("{}", ProbeLine());
    return 0;
  }
  if (spec_path.empty()) {
    fmt::print(stderr, "normlab-train: --spec FILE is required; --help shows one\n");
    return 2;
  }
  events_fd = OpenEvents(events_path);
  if (events_fd < 0) {
    fmt::print(stderr, "normlab-train: cannot open {}: {}\n", events_path, std::strerror(errno));
    return 2;
  }
  InstallSignalHandlers();
  return Train(spec_path);
}
