#pragma once

#include <string>

#include "common/token_shard.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {

/// All that decides a run's losses: model, norm, data, optimization and seed. Left out, because a run may go on
/// without: when it reports and saves, its micro batch and its world size (which change rounding only).
Fingerprint FingerprintOf(const RunSpec& run, const Manifest& manifest);

/// SHA-256 over a fingerprint.
std::string DigestOf(const Fingerprint& fingerprint);

}  // namespace normlab::trainer
