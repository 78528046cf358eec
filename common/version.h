// Versions that programs tell each other.
#pragma once

namespace normlab {

/// Version of normlab, from the project's CMake file.
inline constexpr char kVersion[] = NORMLAB_VERSION;

/// Version of the contract between worker and coordinator; sides with different ones refuse each other.
inline constexpr int kProtocolVersion = 1;

}  // namespace normlab
