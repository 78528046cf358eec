#pragma once

#include "coordinator/engine/state.h"

// Keeps what can be computed from the state beside it. Whoever changes what an index is made of calls these.
namespace normlab::engine {

/// `run` is QUEUED now, with its final priority, age and backoff.
void EnterQueue(State& state, const Run& run);

/// `run` stops being QUEUED; its priority, age and backoff are still those it entered with.
void LeaveQueue(State& state, const Run& run);

/// The run's gang was formed, or is given up: counts its workers as its owner's. Call while `gang` is set.
void EnterLive(State& state, const Run& run);
void LeaveLive(State& state, const Run& run);

/// To be called after every change of a worker; costs nothing if it was none for the indexes.
void IndexWorker(State& state, Worker& worker);

/// Removes the worker from the state. References to it are void afterwards.
void ForgetWorker(State& state, const WorkerId& id);

}  // namespace normlab::engine
