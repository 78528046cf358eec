// Shows to ThreadSanitizer how gRPC hands work from thread to thread: under abseil's locks and through queues without
// locks. Debian's libraries are not instrumented, so that each handing-over would be reported as a race. Linked into
// every program of a ThreadSanitizer build, in front of the libraries: each function tells the tool, and calls the
// library's own.
#include <dlfcn.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

#define ABSL_SYMBOL_TEXT(name) #name
#define ABSL_SYMBOL_EXPANDED(name) ABSL_SYMBOL_TEXT(name)
#define ABSL_NAMESPACE_TEXT ABSL_SYMBOL_EXPANDED(ABSL_OPTION_INLINE_NAMESPACE_NAME)

namespace {

/// The library's function behind ours. A member function is called as a plain one whose first argument is the object.
template <typename Function>
Function* Next(const char* symbol) {
  void* address = dlsym(RTLD_NEXT, symbol);
  if (address == nullptr) {
    std::fprintf(stderr, "tsan_handovers: no library has %s; this file fits Debian 12\n", symbol);
    std::abort();
  }
  return reinterpret_cast<Function*>(address);
}

// Mangled: absl::debian3::Mutex and absl::debian3::CondVar.
static_assert(sizeof(ABSL_NAMESPACE_TEXT) == sizeof("debian3"));
#define NEXT(Function, symbol) Next<Function>("_ZN4absl7" ABSL_NAMESPACE_TEXT symbol)

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const next = NEXT(void(Mutex*), "5Mutex4LockEv");
  next(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() {
  static auto* const next = NEXT(bool(Mutex*), "5Mutex7TryLockEv");
  const bool is_locked = next(this);
  if (is_locked) __tsan_acquire(this);
  return is_locked;
}

void Mutex::Unlock() {
  static auto* const next = NEXT(void(Mutex*), "5Mutex6UnlockEv");
  __tsan_release(this);
  next(this);
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const next = NEXT(void(CondVar*, Mutex*), "7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  next(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const next =
      NEXT(bool(CondVar*, Mutex*, Duration), "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool is_timeout = next(this, mutex, timeout);
  __tsan_acquire(mutex);
  return is_timeout;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const next = NEXT(bool(CondVar*, Mutex*, Time), "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool is_timeout = next(this, mutex, deadline);
  __tsan_acquire(mutex);
  return is_timeout;
}

ABSL_NAMESPACE_END
}  // namespace absl

// What is done before a batch of operations starts, and by gRPC before it tells the end, is seen by whoever takes the
// batch's tag out of a completion queue; the bytes of a message by whoever reads them at the other end of a call in the
// same process.

struct grpc_cq_completion;
using CompletionDone = void(void*, grpc_cq_completion*);

void grpc_cq_end_op(grpc_completion_queue* queue, void* tag, absl::Status status, CompletionDone* done, void* done_arg,
                    grpc_cq_completion* storage, bool internal) {
  using Function = void(grpc_completion_queue*, void*, absl::Status, CompletionDone*, void*, grpc_cq_completion*, bool);
  static auto* const next = Next<Function>("_Z14grpc_cq_end_opP21grpc_completion_queuePvN4absl7" ABSL_NAMESPACE_TEXT
                                           "6StatusEPFvS1_P18grpc_cq_completionES1_S6_b");
  __tsan_release(tag);
  next(queue, tag, std::move(status), done, done_arg, storage, internal);
}

extern "C" grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t num_ops, void* tag,
                                                 void* reserved) {
  static auto* const next = Next<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  for (size_t i = 0; i < num_ops; ++i) {
    if (ops[i].op != GRPC_OP_SEND_MESSAGE) continue;
    const grpc_slice_buffer& message = ops[i].data.send_message.send_message->data.raw.slice_buffer;
    for (size_t slice = 0; slice < message.count; ++slice) __tsan_release(GRPC_SLICE_START_PTR(message.slices[slice]));
  }
  __tsan_release(tag);
  return next(call, ops, num_ops, tag, reserved);
}

extern "C" int grpc_byte_buffer_reader_peek(grpc_byte_buffer_reader* reader, grpc_slice** slice) {
  static auto* const next = Next<decltype(grpc_byte_buffer_reader_peek)>("grpc_byte_buffer_reader_peek");
  const int has_slice = next(reader, slice);
  if (has_slice != 0) __tsan_acquire(GRPC_SLICE_START_PTR(**slice));
  return has_slice;
}

extern "C" grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  static auto* const next = Next<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = next(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

extern "C" grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag, gpr_timespec deadline,
                                                  void* reserved) {
  static auto* const next = Next<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = next(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}
