#pragma once

#include <string>

#include "common/token_shard.h"
#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {

/// All that decides a run's losses: model, norm, data, optimization and seed. Left out, because a run may go on
/// without: when it reports and saves, its micro batch,
/// ZeRO stage and world size (which change rounding only; with loss_mean micro_batch and unequal numbers of targets the
/// micro batch and the world size change the loss itself, as in the official recipe).
Fingerprint FingerprintOf(const RunSpec& run, const Manifest& manifest);

/// SHA-256 over a fingerprint.
std::string DigestOf(const Fingerprint& fingerprint);

}  // namespace normlab::trainer
