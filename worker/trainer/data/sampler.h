#pragma once

#include <cstdint>

#include "worker/trainer/data/dataset.h"

namespace normlab::trainer {

/// A permutation of 0 .. size - 1 chosen by `key`, computed point by point and without a table: a Feistel network on
/// the next even number of bits, walked along its cycle until it falls inside (Black & Rogaway 2002, "Ciphers with
/// arbitrary finite domains"). For shuffling, not for secrets.
class Permutation {
 public:
  Permutation(uint64_t size, uint64_t key);

  /// `index` < size. A few dozen multiplications; at most 4 steps on average.
  uint64_t operator()(uint64_t index) const;

 private:
  uint64_t Encrypt(uint64_t value) const;

  uint64_t size_;
  uint64_t key_;
  int half_bits_;
};

/// Which row stands where in which batch: a pure function of (seed, step), the same for every world size and scheme.
/// Every `num_rows` sequences are one pass over all rows, each pass in a new order; a batch may span two passes.
class TrainSampler {
 public:
  TrainSampler(uint64_t seed, int64_t num_rows, int64_t batch_size)
      : seed_(seed), num_rows_(num_rows), batch_size_(batch_size) {}

  /// Row of sequence `index` (0 .. batch_size - 1) in the global batch of the 1-based `step`.
  int64_t Row(int64_t step, int64_t index) const;

 private:
  uint64_t seed_;
  int64_t num_rows_;
  int64_t batch_size_;
};

/// The contiguous part of `count` things that belongs to `rank`: sizes differ by at most one, larger ones first.
IndexRange RankPart(int64_t count, int rank, int world_size);

}  // namespace normlab::trainer
