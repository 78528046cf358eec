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
  auto* validation =
      command->add_option("--validation", options->validation, "Hold these out for validation; may be repeated")
          ->type_name("FILE|DIR")
          ->allow_extra_args(false);
  command
      ->add_option("--validation-every", options->validation_every,
                   "Without --validation: hold out every K-th document")
      ->type_name("K")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str()
      ->excludes(validation);
  auto* text_key =
      command->add_option("--text-key", options->text_key, "Key of the text in JSON Lines")->capture_default_str();
  auto* sft = command->add_flag("--sft", options->is_sft, "Make prompts and responses, with loss on the responses only")
                  ->excludes(text_key);
  command->add_option("--prompt-key", options->prompt_key, "Key of the prompt in JSON Lines")
      ->capture_default_str()
      ->needs(sft);
  command->add_option("--response-key", options->response_key, "Key of the response in JSON Lines")
      ->capture_default_str()
      ->needs(sft);
  command->add_flag("--skip-invalid", options->skips_invalid, "Count documents that cannot be read, and go on");
  command->add_option("--shard-tokens", options->shard_tokens, "Tokens of a shard, and most that an interruption loses")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads that tokenize; 0: as many as the machine has")
      ->type_name("N")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command
      ->add_option(
          "inputs", options->inputs,
          "Files, or folders with .txt, .md, .rst (text), .jsonl, .ndjson, .json (JSON Lines), also with .gz or "
          ".zst")
      ->required()
      ->type_name("FILE|DIR");
}

std::vector<std::string> ToFlags(const PrepareOptions& options) {
  std::vector<std::string> flags = {"--out",          options.out.string(),
                                    "--shard-tokens", fmt::format("{}", options.shard_tokens),
                                    "--threads",      fmt::format("{}", options.threads)};
  for (const std::string& path : options.validation) flags.insert(flags.end(), {"--validation", path});
  if (options.validation.empty()) {
    flags.insert(flags.end(), {"--validation-every", fmt::format("{}", options.validation_every)});
  }
  if (options.is_sft) {
    flags.insert(flags.end(), {"--sft", "--prompt-key", options.prompt_key, "--response-key", options.response_key});
  } else {
    flags.insert(flags.end(), {"--text-key", options.text_key});
  }
  if (options.skips_invalid) flags.push_back("--skip-invalid");
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
