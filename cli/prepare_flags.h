// The flags of `normlab data prepare`, said once for the two programs that read them.
#pragma once

#include "CLI/CLI.hpp"
#include "cli/prepare.h"

namespace normlab::cli {

inline constexpr char kPrepareDescription[] =
    "Make a dataset from text: train a tokenizer, tokenize, split off validation";
inline constexpr char kPrepareExamples[] =
    "  normlab data prepare --out .normlab/data/kernel-docs /usr/share/doc/linux-doc-6.1\n"
    "  normlab data prepare --out data/mine --vocab-size 8192 corpus/ extra.txt.gz\n"
    "  normlab data prepare --out data/c4 --tokenizer t5.model --validation c4/val/ c4/train/\n"
    "  normlab data prepare --out data/tune --sft --tokenizer data/c4/tokenizer.model questions.jsonl";

/// Adds the flags to `command`; they are written into `options`, which must outlive the parsing.
void AddPrepareFlags(CLI::App* command, PrepareOptions* options);

/// The flags that give `options` again.
std::vector<std::string> ToFlags(const PrepareOptions& options);

}  // namespace normlab::cli
