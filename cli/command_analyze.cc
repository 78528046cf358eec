// normlab analyze: what the layers of a trained model do. normlab-analyze does the work; what it finds out about a run
// is added to the run's history.
#include <fstream>
#include <iterator>

#include "cli/analysis_file.h"
#include "cli/commands.h"
#include "cli/run_files.h"
#include "common/build_id.h"
#include "common/ids.h"
#include "common/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

struct AnalyzeOptions {
  RunFilesOptions files;
  std::string model;
  std::string out;
  std::vector<std::string> only;
  int sequences = 64;
  int batch = 8;
  int threads = 0;
  bool is_kept_out = false;  // Of the run's history.
};

/// What to look at, as flags of normlab-analyze.
absl::StatusOr<std::vector<std::string>> SourceFlags(const AnalyzeOptions& options, const Session& session) {
  if (options.model.empty()) {
    NORMLAB_ASSIGN_OR_RETURN(const RunFiles files, FindRunFiles(options.files, session));
    if (files.data.empty()) return absl::InvalidArgumentError("--checkpoint needs --data DIR: text to look at");
    return std::vector<std::string>{"--checkpoint", files.checkpoint.string(), "--data", files.data.string()};
  }
  if (!options.files.run.empty() || !options.files.checkpoint.empty()) {
    return absl::InvalidArgumentError("give a run, --checkpoint DIR or --model DIR, one of them");
  }
  if (options.files.data.empty()) {
    return absl::InvalidArgumentError("--model needs --data DIR: text prepared with the model's own tokenizer");
  }
  return std::vector<std::string>{"--model", options.model, "--data", options.files.data.string()};
}

/// Adds what was written to the run's history.
absl::Status Record(const AnalyzeOptions& options, const Session& session) {
  const std::filesystem::path path = std::filesystem::path(options.out) / "analysis.json";
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  absl::StatusOr<v1::Analysis> analysis = ReadAnalysis(text);
  if (!analysis.ok()) {
    const absl::StatusCode code =
        absl::IsFailedPrecondition(analysis.status()) ? analysis.status().code() : absl::StatusCode::kInternal;
    return absl::Status(code, fmt::format("{} {}", path.string(), std::string(analysis.status().message())));
  }
  analysis->set_build(std::string(BuildId()));
  v1::RecordAnalysisRequest request;
  request.set_run_id(options.files.run);
  request.set_actor(UserName());
  *request.mutable_analysis() = *std::move(analysis);
  const auto recorded = session.Connect()->RecordAnalysis(request);
  if (!recorded.ok()) {
    return absl::Status(recorded.status().code(),
                        fmt::format("{} was measured, but not added to {}'s history: {}", path.string(),
                                    options.files.run, std::string(recorded.status().message())));
  }
  session.Hint(fmt::format("{} step {} of {}'s history; all of them: normlab report {} -o report.html",
                           recorded->replaced() ? "replaced in" : "added to", request.analysis().step(),
                           options.files.run, RunId::Parse(options.files.run)->experiment.ToString()));
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> RunAnalyze(const AnalyzeOptions& options, const Session& session) {
  NORMLAB_ASSIGN_OR_RETURN(std::vector<std::string> arguments, SourceFlags(options, session));
  arguments.insert(arguments.end(), {"--out", options.out, "--sequences", fmt::format("{}", options.sequences),
                                     "--batch", fmt::format("{}", options.batch)});
  if (options.threads > 0) arguments.insert(arguments.end(), {"--threads", fmt::format("{}", options.threads)});
  if (!options.only.empty()) {
    arguments.insert(arguments.end(), {"--only", fmt::format("{}", fmt::join(options.only, ","))});
  }
  if (session.is_json()) arguments.push_back("--json");
  if (options.files.run.empty() || options.is_kept_out) {
    return BecomeProgram(session, "normlab-analyze", std::move(arguments));
  }
  NORMLAB_RETURN_IF_ERROR(RunProgram(session, "normlab-analyze", std::move(arguments)));
  NORMLAB_RETURN_IF_ERROR(Record(options, session));
  return ExitCode::kOk;
}

}  // namespace

void AddAnalyze(CLI::App& app, Session& session) {
  auto options = std::make_shared<AnalyzeOptions>();
  CLI::App* command = AddCommand(
      app, session, "analyze", "Measure what the layers of a trained model do: variance, angles, removal, gradients",
      "  normlab analyze exp-0001.03 --out analysis/lns\n"
      "  normlab analyze --model llama-folder --data .normlab/data/docs --out analysis/llama --only variance,angular",
      options, [&session](const AnalyzeOptions& chosen) { return RunAnalyze(chosen, session); });
  AddRunFilesFlags(command, &options->files);
  command->add_option("--model", options->model, "A Llama of the transformers library, in place of a run")
      ->type_name("DIR");
  command->add_option("--out", options->out, "Folder for analysis.json and the CSV files")
      ->required()
      ->type_name("DIR");
  command->add_flag("--no-record", options->is_kept_out,
                    "Write files only; else what was measured of a run replaces that of the same step in its history");
  command->add_option("--only", options->only, "Only these: variance, angular, removal, gradients, jacobian")
      ->delimiter(',')
      ->check(CLI::IsMember({"variance", "angular", "removal", "gradients", "jacobian"}));
  command->add_option("--sequences", options->sequences, "Sequences of held-out text to look at")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command->add_option("--batch", options->batch, "Sequences of one forward")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads (default: all cores)")->check(CLI::Range(1, 1024));
}

}  // namespace normlab::cli
