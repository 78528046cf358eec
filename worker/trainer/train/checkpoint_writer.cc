#include "worker/trainer/train/checkpoint_writer.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <utility>

namespace normlab::trainer {
namespace {

// Compute threads wait for each other at every product: one that loses its processor to hashing delays all of them.
constexpr int kNice = 10;

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointFolder folder) : folder_(std::move(folder)), thread_([this] { Run(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointWriter::Start(CheckpointContent content) {
  {
    const std::lock_guard lock(mutex_);
    if (is_writing_ || outcome_) throw std::logic_error("a checkpoint is still being written");
    content_ = std::move(content);
    is_writing_ = true;
  }
  changed_.notify_all();
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::Poll() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcome_, std::nullopt);
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !is_writing_; });
  return std::exchange(outcome_, std::nullopt);
}

void CheckpointWriter::Run() {
  // On Linux a thread has a niceness of its own. If it cannot be lowered, training is a little slower, that is all.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return content_ || is_closing_; });
    if (!content_) return;
    const CheckpointContent content = *std::exchange(content_, std::nullopt);
    lock.unlock();
    Outcome outcome = Write(content);
    lock.lock();
    outcome_ = std::move(outcome);
    is_writing_ = false;
    changed_.notify_all();
  }
}

CheckpointWriter::Outcome CheckpointWriter::Write(const CheckpointContent& content) {
  const auto start = std::chrono::steady_clock::now();
  try {
    CheckpointSaved saved = folder_.Write(content);
    saved.write_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {.step = content.step, .saved = saved, .error = ""};
  } catch (const std::exception& error) {
    return {.step = content.step, .saved = std::nullopt, .error = error.what()};
  }
}

}  // namespace normlab::trainer
