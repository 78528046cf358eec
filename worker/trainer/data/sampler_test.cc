#include "worker/trainer/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace normlab::trainer {
namespace {

TEST(PermutationTest, HasEveryValueOnceForEverySize) {
  for (uint64_t size : {1, 2, 3, 4, 5, 7, 64, 65, 1000}) {
    std::vector<int> seen(size);
    const Permutation order(size, 42);
    for (uint64_t i = 0; i < size; ++i) ++seen.at(order(i));
    EXPECT_THAT(seen, ::testing::Each(1)) << "size " << size;
  }
}

TEST(PermutationTest, SpreadsEvenlyAndDiffersByKey) {
  constexpr uint64_t kSize = 100000;
  const Permutation order(kSize, 1), other(kSize, 2);
  // A shuffle has |order(i) - i| = size / 3 on average and about one fixed point.
  double distance = 0;
  int fixed_points = 0, common = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    distance += std::abs(static_cast<double>(order(i)) - static_cast<double>(i));
    fixed_points += order(i) == i;
    common += order(i) == other(i);
  }
  EXPECT_NEAR(distance / kSize, kSize / 3.0, kSize * 0.005);
  EXPECT_LT(fixed_points, 10);
  EXPECT_LT(common, 10);
}

TEST(PermutationTest, WorksBeyond32Bits) {
  const uint64_t size = (uint64_t{1} << 40) + 17;
  const Permutation order(size, 3);
  EXPECT_LT(order(size - 1), size);
  EXPECT_NE(order(size - 1), order(size - 2));
}

TEST(TrainSamplerTest, EachPassHasEveryRowOnceThoughBatchesSpanPasses) {
  constexpr int64_t kRows = 10, kBatch = 4;
  const TrainSampler sampler(7, kRows, kBatch);
  std::vector<int64_t> stream;
  for (int64_t step = 1; step <= 5; ++step) {
    for (int64_t i = 0; i < kBatch; ++i) stream.push_back(sampler.Row(step, i));
  }
  const std::vector<int64_t> first(stream.begin(), stream.begin() + 10), second(stream.begin() + 10, stream.end());
  EXPECT_THAT(first, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_THAT(second, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_NE(first, second);
}

TEST(TrainSamplerTest, OrderNeverChangesBetweenVersions) {
  // A resumed run must go on in the order that it began with.
  const TrainSampler sampler(1, 1000, 8);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < 4; ++i) rows.push_back(sampler.Row(3, i));
  EXPECT_THAT(rows, ::testing::ElementsAre(143, 689, 231, 413));
}

TEST(RankPartTest, PartsAreContiguousAndCoverAll) {
  for (int world_size : {1, 2, 3, 8}) {
    int64_t next = 0;
    for (int rank = 0; rank < world_size; ++rank) {
      const IndexRange part = RankPart(10, rank, world_size);
      EXPECT_EQ(part.begin, next);
      EXPECT_LE(part.end - part.begin, 10 / world_size + 1);
      next = part.end;
    }
    EXPECT_EQ(next, 10);
  }
}

}  // namespace
}  // namespace normlab::trainer
