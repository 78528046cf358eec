// Which source a program was built from.
#pragma once

#include <string_view>

namespace normlab {

/// The version and, where the source is a git checkout, its commit and whether files of it were changed:
/// "0.1.0+15c89d0", "0.1.0+15c89d0.changed", "0.1.0".
std::string_view BuildId();

}  // namespace normlab
