#pragma once

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "normlab/v1/worker.pb.h"
#include "tests/simulation/dice.h"
#include "tests/simulation/timeline.h"

namespace normlab::simulation {

/// One direction between a worker's host and the coordinator's.
struct Path {
  absl::Time blocked_until = absl::InfinitePast();  // What is under way then waits, as TCP sends it again.
  absl::Duration delay_max;
};

/// One direction of one stream: messages arrive in order, each after a delay, and the end behind them.
template <typename Message>
class Lane : public std::enable_shared_from_this<Lane<Message>> {
 public:
  using Receiver = std::function<void(Message)>;
  using EndReceiver = std::function<void(const absl::Status&)>;

  Lane(Timeline& timeline, Dice& dice, const Path& path) : timeline_(timeline), dice_(dice), path_(path) {}

  /// Who is at the far end. Cleared by Deafen.
  void Receive(Receiver on_message, EndReceiver on_end) {
    on_message_ = std::move(on_message);
    on_end_ = std::move(on_end);
  }
  /// Nobody listens any more; what is under way is lost.
  void Deafen() {
    on_message_ = nullptr;
    on_end_ = nullptr;
    items_.clear();
  }

  void Send(Message message) {
    if (!has_end_) Push({.message = std::move(message)});
  }
  void SendEnd(const absl::Status& status) {
    if (has_end_) return;
    has_end_ = true;
    Push({.end = status});
  }
  /// The connection breaks: of what is under way a part from the beginning on still arrives, then the end.
  void Break() {
    if (has_end_) return;
    items_.resize(static_cast<size_t>(dice_.Below(static_cast<int>(items_.size()) + 1)));
    SendEnd(absl::UnavailableError("connection reset"));
  }
  /// Hands a message to a receiver that has just taken the place of another.
  void Redeliver(Message message) {
    if (const Receiver receiver = on_message_) receiver(std::move(message));
  }
  size_t num_waiting() const { return items_.size(); }

 private:
  struct Item {
    absl::Time ready;
    std::optional<Message> message;
    absl::Status end;
  };

  void Push(Item item) {
    const absl::Duration delay = dice_.Between(absl::Microseconds(100), absl::Microseconds(100) + path_.delay_max);
    item.ready = std::max(last_ready_, timeline_.now() + delay);
    last_ready_ = item.ready;
    const absl::Time ready = item.ready;
    items_.push_back(std::move(item));
    timeline_.At(ready, [self = this->shared_from_this()] { self->Deliver(); });
  }

  void Deliver() {
    while (!items_.empty() && items_.front().ready <= timeline_.now()) {
      if (path_.blocked_until > timeline_.now()) {
        timeline_.At(path_.blocked_until + absl::Milliseconds(1),
                     [self = this->shared_from_this()] { self->Deliver(); });
        return;
      }
      Item item = std::move(items_.front());
      items_.pop_front();
      // A copy: the receiver may deafen this lane.
      if (item.message) {
        if (const Receiver receiver = on_message_) receiver(*std::move(item.message));
      } else {
        if (const EndReceiver receiver = on_end_) receiver(item.end);
      }
    }
  }

  Timeline& timeline_;
  Dice& dice_;
  const Path& path_;
  Receiver on_message_;
  EndReceiver on_end_;
  std::deque<Item> items_;
  absl::Time last_ready_ = absl::InfinitePast();
  bool has_end_ = false;
};

/// A stream between an agent and the coordinator.
struct Link {
  Link(Timeline& timeline, Dice& dice, const Path& up_path, const Path& down_path, int worker)
      : worker(worker),
        up(std::make_shared<Lane<v1::WorkerMessage>>(timeline, dice, up_path)),
        down(std::make_shared<Lane<v1::CoordinatorMessage>>(timeline, dice, down_path)) {}

  void Break() {
    up->Break();
    down->Break();
  }

  const int worker;
  const std::shared_ptr<Lane<v1::WorkerMessage>> up;
  const std::shared_ptr<Lane<v1::CoordinatorMessage>> down;
};

}  // namespace normlab::simulation
