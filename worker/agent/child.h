// A child process that cannot outlive this one, and leaves nothing behind.
//
// The kernel's means: the child asks to be killed when the thread that forked it ends (PR_SET_PDEATHSIG), leads a
// process group of its own that is killed when it has ended, and whatever left that group is adopted by this process
// (PR_SET_CHILD_SUBREAPER) and killed too. Not covered: processes that the child itself started, after a SIGKILL of
// this process.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/agent/file_descriptor.h"

namespace normlab::agent {

/// How a process ended: one of the two is set.
struct ChildExit {
  std::optional<int> code;
  std::optional<int> signal;
};

struct ChildOptions {
  std::vector<std::string> argv;  // argv[0] is the program's path; PATH is not searched.
  std::string folder;             // Working folder.
};

/// Makes this process adopt orphaned descendants. Call once, early. Such a process may have no other children than its
/// one Child: they would be taken for strays.
absl::Status BecomeSubreaper();

/// One child. All calls from the thread that spawned it, which must live as long as the child: the kernel binds the
/// death signal to the *thread*.
class Child {
 public:
  /// Returns once the program is executing. NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE (too many processes, no memory)
  /// if it cannot be started; nothing is left then.
  static absl::StatusOr<std::unique_ptr<Child>> Spawn(const ChildOptions& options);

  /// Kills what still lives.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  /// Readable once the child has ended.
  int pidfd() const { return pidfd_.get(); }
  /// Its stdout and stderr; reading does not block. Close them by assigning an empty one.
  FileDescriptor& out() { return out_; }
  FileDescriptor& err() { return err_; }

  /// SIGTERM to the child alone: what it started is its own business until it has ended.
  void Terminate();
  /// SIGKILL to its whole group.
  void Kill();

  /// How it ended, once it has and all that it left behind is gone too; nullopt before. Does not block: call it when
  /// pidfd is readable, and again some milliseconds later while `is_ending`.
  std::optional<ChildExit> TryReap();
  /// The child itself has ended, some of its descendants have not.
  bool is_ending() const { return exit_.has_value() && !is_gone_; }
  /// Reaps descendants that were orphaned and have ended while the child lives.
  void ReapOrphans();

 private:
  Child(pid_t pid, FileDescriptor pidfd, FileDescriptor out, FileDescriptor err);

  const pid_t pid_;
  FileDescriptor pidfd_;
  FileDescriptor out_;
  FileDescriptor err_;
  std::optional<ChildExit> exit_;
  bool is_gone_ = false;
};

}  // namespace normlab::agent
