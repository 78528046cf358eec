// Makes the error that its argument names; a sanitizer is to report it.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <limits>
#include <memory>
#include <mutex>
#include <string_view>

#include "grpcpp/alarm.h"

namespace {

/// This thread and one of gRPC's count without a lock.
int Race() {
  std::mutex mutex;
  std::condition_variable is_done_changed;
  bool is_done = false;
  int counter = 0;
  grpc::Alarm alarm;
  alarm.Set(std::chrono::system_clock::now(), [&](bool) {
    ++counter;
    const std::scoped_lock lock(mutex);
    is_done = true;
    is_done_changed.notify_all();
  });
  ++counter;
  std::unique_lock lock(mutex);
  is_done_changed.wait(lock, [&] { return is_done; });
  return counter;
}

int UseAfterFree() {
  auto owner = std::make_unique<int>(1);
  const volatile int* value = owner.get();
  owner.reset();
  return *value;
}

int Overflow() {
  volatile int value = std::numeric_limits<int>::max();
  return value + 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view error = argc == 2 ? argv[1] : "";
  int result = 0;
  if (error == "race") {
    result = Race();
  } else if (error == "use_after_free") {
    result = UseAfterFree();
  } else if (error == "overflow") {
    result = Overflow();
  } else {
    std::fprintf(stderr, "usage: normlab-planted-error race|use_after_free|overflow\n");
    return 2;
  }
  std::printf("no sanitizer stopped this: %d\n", result);
  return 0;
}
