// Shell completion, generated from the program's own tree of commands and options, so that it cannot fall behind.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace normlab::cli {

/// A script for "bash", "zsh" or "fish" to be sourced; empty for another shell.
std::string CompletionScript(const CLI::App& app, const std::string& shell);

}  // namespace normlab::cli
