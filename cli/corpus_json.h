// What a line of a JSON Lines file says; pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace normlab::cli {

/// The texts under `keys`, in that order, of the JSON object that `line` is; other keys do not matter.
/// INVALID_ARGUMENT saying what is wrong: no JSON (with the byte, from 1), no object, a key that is missing or no
/// text, a text with a zero character.
absl::StatusOr<std::vector<std::string>> ReadJsonTexts(std::string_view line, const std::vector<std::string>& keys);

}  // namespace normlab::cli
