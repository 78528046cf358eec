#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>

namespace normlab::service {

/// Where to listen: an address of this host's loopback, never a name.
struct ListenAddress {
  std::string host;  // "127.0.0.1" or "::1".
  int port = 0;      // 0: any free one.

  /// "127.0.0.1:7070" or "[::1]:7070".
  std::string ToString() const;
};

/// Reads "HOST:PORT". INVALID_ARGUMENT if it is none; FAILED_PRECONDITION if HOST is not of the loopback: everything is
/// sent in plain text, and TLS is not there yet.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

/// Why nothing can listen at `address` now (port in use, ...), with the address; UNAVAILABLE. For libraries that do not
/// say why. OK if listening works.
absl::Status ProbeListen(const ListenAddress& address);

}  // namespace normlab::service
