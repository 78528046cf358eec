#include "cli/prepare_flags.h"

#include "fmt/format.h"

namespace normlab::cli {

void AddPrepareFlags(CLI::App* command, PrepareOptions* options) {
  command->add_option("--out", options->out, "Folder of the dataset; made if missing")->required()->type_name("DIR");
  auto* tokenizer =
      command->add_option("--tokenizer", options->tokenizer, "Use this SentencePiece model")->type_name("FILE");
  command->add_option("--vocab-size", options->vocab_size, "Pieces of the tokenizer to be trained")
      ->type_name("N")
      ->check(CLI::Range(300, 1 << 20))
      ->capture_default_str()
      ->excludes(tokenizer);
  command->add_option("--validation-every", options->validation_every, "Every K-th file is held out for validation")
      ->type_name("K")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("inputs", options->inputs, "Text files, or folders with .txt, .md, .rst files, also with .gz")
      ->required()
      ->type_name("FILE|DIR");
}

std::vector<std::string> ToFlags(const PrepareOptions& options) {
  std::vector<std::string> flags = {"--out", options.out.string(), "--validation-every",
                                    fmt::format("{}", options.validation_every)};
  if (options.tokenizer.empty()) {
    flags.insert(flags.end(), {"--vocab-size", fmt::format("{}", options.vocab_size)});
  } else {
    flags.insert(flags.end(), {"--tokenizer", options.tokenizer});
  }
  flags.push_back("--");  // A file's name may begin with a dash.
  flags.insert(flags.end(), options.inputs.begin(), options.inputs.end());
  return flags;
}

}  // namespace normlab::cli
