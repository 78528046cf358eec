#include "cli/prepare_encode.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "common/status.h"

namespace normlab::cli {
namespace {

// What one thread encodes at a time: enough that the lock does not matter, little enough that all threads end together.
constexpr uint64_t kBatchBytes = 128 << 10;
constexpr uint64_t kDocumentOverheadBytes = 256;

/// Documents that follow each other.
struct Batch {
  std::vector<RawDocument> raw;
  std::vector<EncodedDocument> encoded;
  uint64_t bytes = 0;
  bool is_encoded = false;
};

class Pipeline {
 public:
  Pipeline(const EncodeWork& work, const EncodeLimits& limits) : work_(work), limits_(limits) {}

  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  /// Also where `consume` threw.
  ~Pipeline() {
    {
      const std::lock_guard lock(mutex_);
      is_stopped_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status Run() {
    threads_.emplace_back([this] { ReadAll(); });
    for (int i = 0; i < limits_.num_threads; ++i) threads_.emplace_back([this] { EncodeAll(); });
    return ConsumeAll();
  }

 private:
  void ReadAll() {
    absl::StatusOr<bool> has_more = true;
    while (has_more.ok() && *has_more) {
      const auto batch = std::make_shared<Batch>();
      while (batch->bytes < kBatchBytes) {
        RawDocument document;
        has_more = work_.read(&document);
        if (!has_more.ok() || !*has_more) break;
        batch->bytes += document.bytes.size() + kDocumentOverheadBytes;
        batch->raw.push_back(std::move(document));
      }
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        return is_stopped_ || window_bytes_ == 0 || window_bytes_ + batch->bytes <= limits_.window_bytes;
      });
      if (is_stopped_) return;
      window_bytes_ += batch->bytes;
      in_order_.push_back(batch);
      to_encode_.push_back(batch);
      if (!has_more.ok()) read_status_ = has_more.status();
      is_read_ = !has_more.ok() || !*has_more;
      changed_.notify_all();
    }
  }

  void EncodeAll() {
    while (true) {
      std::shared_ptr<Batch> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return is_stopped_ || is_read_ || !to_encode_.empty(); });
        if (is_stopped_ || to_encode_.empty()) return;
        batch = std::move(to_encode_.front());
        to_encode_.pop_front();
      }
      for (RawDocument& document : batch->raw) batch->encoded.push_back(work_.encode(std::move(document)));
      batch->raw = {};
      {
        const std::lock_guard lock(mutex_);
        batch->is_encoded = true;
      }
      changed_.notify_all();
    }
  }

  absl::Status ConsumeAll() {
    while (true) {
      std::shared_ptr<Batch> batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return in_order_.empty() ? is_read_ : in_order_.front()->is_encoded; });
        if (in_order_.empty()) return read_status_;
        batch = std::move(in_order_.front());
        in_order_.pop_front();
      }
      for (const EncodedDocument& document : batch->encoded) {
        NORMLAB_RETURN_IF_ERROR(document.status);
        NORMLAB_RETURN_IF_ERROR(work_.consume(document));
      }
      {
        const std::lock_guard lock(mutex_);
        window_bytes_ -= batch->bytes;
      }
      changed_.notify_all();
    }
  }

  const EncodeWork& work_;
  const EncodeLimits& limits_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Batch>> in_order_;   // Read and not consumed.
  std::deque<std::shared_ptr<Batch>> to_encode_;  // Of these, those that no thread has taken.
  uint64_t window_bytes_ = 0;
  absl::Status read_status_;
  bool is_read_ = false;  // Nothing follows, because of the end or of read_status_.
  bool is_stopped_ = false;
};

}  // namespace

absl::Status EncodeInOrder(const EncodeWork& work, const EncodeLimits& limits) { return Pipeline(work, limits).Run(); }

}  // namespace normlab::cli
