#pragma once

#include <cstdint>

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

/// Which window stands where in which batch: a pure function of (seed, step), the same for every world size and scheme.
/// Every `num_windows` sequences are one pass over all windows, each pass in a new order; a batch may span two passes.
class TrainSampler {
 public:
  TrainSampler(uint64_t seed, int64_t num_windows, int64_t batch_size)
      : seed_(seed), num_windows_(num_windows), batch_size_(batch_size) {}

  /// Window of sequence `index` (0 .. batch_size - 1) in the global batch of the 1-based `step`.
  int64_t Window(int64_t step, int64_t index) const;

 private:
  uint64_t seed_;
  int64_t num_windows_;
  int64_t batch_size_;
};

/// Half-open range of a list.
struct IndexRange {
  int64_t begin;
  int64_t end;
};

/// The contiguous part of `count` things that belongs to `rank`: sizes differ by at most one, larger ones first.
IndexRange RankPart(int64_t count, int rank, int world_size);

}  // namespace normlab::trainer
