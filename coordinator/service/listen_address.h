#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>

namespace normlab::service {

/// Where to listen: a numeric address, never a name.
struct ListenAddress {
  std::string host;  // "127.0.0.1", "::1" or "0.0.0.0".
  int port = 0;      // 0: any free one.

  /// "127.0.0.1:7070" or "[::1]:7070".
  std::string ToString() const;
  /// 127.0.0.0/8 or ::1: nothing that is said there leaves this host.
  bool is_loopback() const;
};

/// Reads "HOST:PORT", where HOST is numeric or "localhost". INVALID_ARGUMENT if it is none.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

/// Why nothing can listen at `address` now (port in use, ...), with the address; UNAVAILABLE. For libraries that do not
/// say why. OK if listening works.
absl::Status ProbeListen(const ListenAddress& address);

}  // namespace normlab::service
