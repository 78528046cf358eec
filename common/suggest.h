// "did you mean": the known name that is nearest to a mistyped one.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace normlab {

/// The entry of `known` with the smallest edit distance to `given` (insert, delete, replace, swap of neighbours; case
/// does not count), if it is near enough to be a slip of the fingers: at most a third of the longer name, and at least
/// one. The first one wins a tie.
std::optional<std::string> NearestName(std::string_view given, const std::vector<std::string>& known);

/// "; did you mean 'x'?" or nothing, to be put at the end of a message.
std::string DidYouMean(std::string_view given, const std::vector<std::string>& known);

}  // namespace normlab
