// normlab-prepare: the process behind `normlab data prepare`.
//
// A program of its own because libsentencepiece carries a protobuf of its own and exports parts of it: in one process
// with the protobuf that gRPC uses it crashes before main (Debian 12: sentencepiece 0.1.97, protobuf 3.21.12).
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/prepare_flags.h"
#include "cli/table.h"
#include "cli/units.h"
#include "fmt/format.h"

namespace normlab::cli {
namespace {

void PrintJson(const PrepareOptions& options, const PrepareResult& result) {
  const auto split = [](const ManifestSplit& counts) {
    return nlohmann::ordered_json{{"documents", counts.documents},   {"tokens", counts.tokens},
                                  {"text_bytes", counts.text_bytes}, {"empty", counts.empty},
                                  {"invalid", counts.invalid},       {"shards", counts.shards.size()}};
  };
  fmt::print("{}\n", nlohmann::ordered_json({{"folder", options.out.string()},
                                             {"was_there", result.was_there},
                                             {"resumed_shards", result.resumed_shards},
                                             {"vocab_size", result.manifest.vocab_size},
                                             {"tokenizer_sha256", result.manifest.tokenizer_sha256},
                                             {"skipped_files", result.skipped_files},
                                             {"train", split(result.manifest.train)},
                                             {"validation", split(result.manifest.validation)}})
                         .dump(2));
}

void PrintTable(const PrepareResult& result) {
  Table table({{"SPLIT"},
               {"DOCUMENTS", Align::kRight},
               {"TOKENS", Align::kRight},
               {"TEXT", Align::kRight},
               {"EMPTY", Align::kRight},
               {"INVALID", Align::kRight},
               {"SHARDS", Align::kRight}});
  const auto add = [&](const char* name, const ManifestSplit& split) {
    table.AddRow({name, fmt::format("{}", split.documents), fmt::format("{}", split.tokens),
                  BytesText(split.text_bytes), fmt::format("{}", split.empty), fmt::format("{}", split.invalid),
                  fmt::format("{}", split.shards.size())});
  };
  add("train", result.manifest.train);
  add("validation", result.manifest.validation);
  fmt::print("{}vocabulary {}, tokenizer {}\n", table.Render(WantsColor(STDOUT_FILENO)), result.manifest.vocab_size,
             result.manifest.tokenizer_sha256.substr(0, 12));
  const ManifestSplit &train = result.manifest.train, &validation = result.manifest.validation;
  fmt::print("{:.2f} bytes of text per token\n", static_cast<double>(train.text_bytes + validation.text_bytes) /
                                                     static_cast<double>(train.tokens + validation.tokens));
  if (result.resumed_shards > 0) {
    fmt::print("{} shard(s) were kept from a call that was interrupted\n", result.resumed_shards);
  }
  if (result.skipped_files > 0)
    fmt::print("{} file(s) that are no text by their name were skipped\n", result.skipped_files);
}

int Run(const PrepareOptions& options) {
  std::atomic<bool> stop = false;
  Interrupt interrupt;
  interrupt.SetCallback([&stop] {
    stop = true;
    fmt::print(stderr, "\nstopping; Ctrl-C again to stop at once\n");
  });
  const absl::StatusOr<PrepareResult> result = Prepare(options, stop);
  if (!result.ok()) {
    fmt::print(stderr, "{} {}\n", Paint("normlab:", Style::kRed, WantsColor(STDERR_FILENO)),
               std::string(result.status().message()));
    return static_cast<int>(ExitCodeOf(result.status()));
  }
  if (options.is_silent) {
    PrintJson(options, *result);
    return 0;
  }
  if (result->was_there) fmt::print(stderr, "{} already holds this dataset; nothing to do\n", options.out.string());
  PrintTable(*result);
  std::fflush(stdout);
  const std::string hint = fmt::format("in a spec: base: {{data: {{dataset: {}}}}}, if {} is in the workers' data root",
                                       options.out.lexically_normal().filename().string(), options.out.string());
  fmt::print(stderr, "{}\n", Paint(hint, Style::kDim, WantsColor(STDERR_FILENO)));
  return 0;
}

}  // namespace
}  // namespace normlab::cli

int main(int argc, char** argv) {
  using namespace normlab::cli;  // NOLINT(build/namespaces)
  CLI::App app(kPrepareDescription, "normlab-prepare");
  app.footer(std::string("Called by `normlab data prepare`.\nExamples:\n") + kPrepareExamples);
  PrepareOptions options;
  AddPrepareFlags(&app, &options);
  app.add_flag("--json", options.is_silent, "Print the result as JSON, and no progress");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    const bool is_help = problem.get_exit_code() == 0;
    return app.exit(problem) == 0 && is_help ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  return Run(options);
}
