#pragma once

#include <sys/eventfd.h>

#include <cstdint>

#include "worker/agent/file_descriptor.h"

namespace normlab::agent {

/// Ends another thread's poll(). Safe to call from any thread.
class Wakeup {
 public:
  Wakeup() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  /// Readable after Wake, until Clear.
  int fd() const { return fd_.get(); }
  void Wake() const {
    const uint64_t one = 1;
    (void)!write(fd_.get(), &one, sizeof(one));
  }
  void Clear() const {
    uint64_t count;
    (void)!read(fd_.get(), &count, sizeof(count));
  }

 private:
  FileDescriptor fd_;
};

}  // namespace normlab::agent
