#include "worker/trainer/data/sampler.h"

#include <algorithm>
#include <bit>

namespace normlab::trainer {
namespace {

constexpr int kRounds = 4;

/// Finalizer of SplitMix64 (Steele, Lea & Flood 2014): every bit of the result depends on every bit of `value`.
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

}  // namespace

Permutation::Permutation(uint64_t size, uint64_t key) : size_(size), key_(key) {
  const int bits = size <= 1 ? 0 : std::bit_width(size - 1);
  half_bits_ = std::max(1, (bits + 1) / 2);
}

uint64_t Permutation::operator()(uint64_t index) const {
  do {
    index = Encrypt(index);
  } while (index >= size_);
  return index;
}

uint64_t Permutation::Encrypt(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const uint64_t next = left ^ (Mix(Mix(key_ + round) ^ right) & mask);
    left = right;
    right = next;
  }
  return (left << half_bits_) | right;
}

int64_t TrainSampler::Row(int64_t step, int64_t index) const {
  const int64_t position = (step - 1) * batch_size_ + index;
  const auto pass = static_cast<uint64_t>(position / num_rows_);
  const Permutation order(static_cast<uint64_t>(num_rows_), Mix(Mix(seed_) ^ pass));
  return static_cast<int64_t>(order(static_cast<uint64_t>(position % num_rows_)));
}

IndexRange RankPart(int64_t count, int rank, int world_size) {
  const int64_t share = count / world_size;
  const int64_t extra = count % world_size;
  const int64_t begin = rank * share + std::min<int64_t>(rank, extra);
  return {begin, begin + share + (rank < extra ? 1 : 0)};
}

}  // namespace normlab::trainer
