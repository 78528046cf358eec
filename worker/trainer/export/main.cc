// normlab-export: the process behind `normlab export`.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "worker/trainer/export/export.h"
#include "worker/trainer/export/hugging_face_model.h"

namespace normlab::trainer {
namespace {

constexpr char kHelp[] =
    R"(Exit status: 0 done; 1 failed; 2 wrong usage; 4 refused: no class of transformers computes this scheme, or the folder is there.

Example: normlab-export --checkpoint .normlab/checkpoints/exp-0001.01 --data .normlab/data/docs --out exports/lns)";

// As in cli/exit_code.h.
constexpr int kFailed = 1, kUsage = 2, kRefused = 4;

void PrintJson(const ExportOptions& options, const ExportResult& result) {
  const nlohmann::ordered_json document = {{"folder", options.out.string()},
                                           {"checkpoint", result.checkpoint},
                                           {"step", result.step},
                                           {"scheme", result.scheme},
                                           {"architecture", result.architecture},
                                           {"parameters", result.num_parameters},
                                           {"model_bytes", result.bytes},
                                           {"files", result.files},
                                           {"notes", result.notes}};
  fmt::print("{}\n", document.dump(2));
}

void PrintText(const ExportOptions& options, const ExportResult& result) {
  fmt::print("{}: {} of step {} ({}) as {}, {:.1f} M parameters in float32\n", options.out.string(), result.checkpoint,
             result.step, result.scheme, result.architecture, static_cast<double>(result.num_parameters) / 1e6);
  fmt::print("files: {}\n", fmt::join(result.files, " "));
  std::fflush(stdout);
  for (const std::string& note : result.notes) fmt::print(stderr, "note: {}\n", note);
  fmt::print(stderr,
             "load it: python3 -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}')\"\n",
             options.out.string());
}

int Run(const ExportOptions& options, bool is_json) {
  const auto fail = [](const std::exception& error, int code) {
    fmt::print(stderr, "normlab-export: {}\n", error.what());
    return code;
  };
  try {
    const ExportResult result = ExportToHuggingFace(options);
    is_json ? PrintJson(options, result) : PrintText(options, result);
    return 0;
  } catch (const NotExpressible& error) {
    return fail(error, kRefused);
  } catch (const AlreadyThere& error) {
    return fail(error, kRefused);
  } catch (const std::exception& error) {
    return fail(error, kFailed);
  }
}

}  // namespace
}  // namespace normlab::trainer

int main(int argc, char** argv) {
  using namespace normlab::trainer;  // NOLINT(build/namespaces)
  CLI::App app("Makes a folder that the transformers library loads out of a run's checkpoint.", "normlab-export");
  app.footer(kHelp);
  ExportOptions options;
  bool is_json = false;
  app.add_option("--checkpoint", options.checkpoint, "A checkpoint, or a run's folder of them (the newest good one)")
      ->required()
      ->type_name("DIR");
  app.add_option("--data", options.data, "The run's dataset, for its tokenizer")->type_name("DIR");
  app.add_option("--out", options.out, "Folder to make")->required()->type_name("DIR");
  app.add_flag("--force", options.replaces, "Replace an export that is there");
  app.add_flag("--json", is_json, "Print the result as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : kUsage;
  }
  return Run(options, is_json);
}
