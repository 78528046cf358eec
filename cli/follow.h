// A server stream that outlives the coordinator's restarts.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "cli/client.h"
#include "cli/interrupt.h"
#include "grpcpp/support/sync_stream.h"

namespace normlab::cli {

struct FollowTimes {
  absl::Duration first_patience = absl::Seconds(3);   // For a coordinator that never answered.
  absl::Duration later_patience = absl::Minutes(10);  // For one that did.
};

/// Opens the stream and hands its messages to `on_message` until the server ends it (OK), refuses it (its status), the
/// user interrupts (CANCELLED), or it stays unreachable (UNAVAILABLE). Between two tries calls `on_lost` with the
/// reason once.
template <typename Message>
absl::Status Follow(Client& client, Interrupt& interrupt,
                    const std::function<std::unique_ptr<grpc::ClientReader<Message>>(grpc::ClientContext*)>& open,
                    const std::function<void(const Message&)>& on_message,
                    const std::function<void(const std::string&)>& on_lost, const FollowTimes& times = {}) {
  absl::Duration patience = times.first_patience;
  absl::Time lost_at = absl::Now();
  bool is_lost = false;
  while (!interrupt.interrupted()) {
    grpc::ClientContext context;
    interrupt.SetCallback([&context] { context.TryCancel(); });
    const auto reader = open(&context);
    for (Message message; reader->Read(&message); message.Clear()) {
      on_message(message);
      is_lost = false;
      patience = times.later_patience;
    }
    const grpc::Status status = reader->Finish();
    interrupt.SetCallback(nullptr);
    if (interrupt.interrupted()) break;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return client.Explain(status);
    if (!is_lost) {
      lost_at = absl::Now();
      on_lost(status.error_message());
    }
    is_lost = true;
    if (absl::Now() - lost_at > patience) return client.Explain(status);
    // The short pause keeps a server that accepts and refuses at once from being asked in a tight loop.
    interrupt.WaitFor(absl::Milliseconds(100));
    for (bool is_waiting = true; is_waiting && !interrupt.interrupted();) {
      is_waiting = absl::Now() - lost_at <= patience && !client.WaitForConnection(absl::Milliseconds(200));
    }
  }
  return absl::CancelledError("interrupted");
}

}  // namespace normlab::cli
