#include "cli/prepare_encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace normlab::cli {
namespace {

class EncodeInOrderTest : public ::testing::TestWithParam<int> {
 protected:
  /// `count` documents of `bytes` bytes; the encoding of document i has the token i.
  EncodeWork Work(uint64_t count, size_t bytes) {
    return {.read = [this, count, bytes](RawDocument* document) -> absl::StatusOr<bool> {
              if (read_ == count) return false;
              document->position.line = read_++;
              document->bytes.assign(bytes, 'x');
              unconsumed_ += bytes;
              unconsumed_max_ = std::max(unconsumed_max_, unconsumed_.load());
              return true;
            },
            .encode =
                [](RawDocument document) {
                  return EncodedDocument{.position = document.position,
                                         .tokens = {static_cast<uint32_t>(document.position.line)},
                                         .text_bytes = document.bytes.size()};
                },
            .consume =
                [this](const EncodedDocument& document) {
                  consumed_.push_back(document.tokens.at(0));
                  unconsumed_ -= document.text_bytes;
                  return absl::OkStatus();
                }};
  }
  EncodeLimits Limits(uint64_t window_bytes = 1 << 20) const {
    return {.num_threads = GetParam(), .window_bytes = window_bytes};
  }
  void ExpectConsumed(uint32_t count) {
    ASSERT_EQ(consumed_.size(), count);
    for (uint32_t i = 0; i < count; ++i) ASSERT_EQ(consumed_[i], i);
  }

  uint64_t read_ = 0;
  std::atomic<uint64_t> unconsumed_ = 0;
  uint64_t unconsumed_max_ = 0;  // The reader's alone.
  std::vector<uint32_t> consumed_;
};

INSTANTIATE_TEST_SUITE_P(Threads, EncodeInOrderTest, ::testing::Values(1, 2, 7));

TEST_P(EncodeInOrderTest, ConsumesAllInTheOrderOfReading) {
  EXPECT_TRUE(EncodeInOrder(Work(20'000, 100), Limits()).ok());
  ExpectConsumed(20'000);
}

TEST_P(EncodeInOrderTest, NoMoreThanTheWindowAndABatchIsReadAhead) {
  EXPECT_TRUE(EncodeInOrder(Work(5000, 4000), Limits(500'000)).ok());
  ExpectConsumed(5000);
  EXPECT_LT(unconsumed_max_, 500'000u + (128 << 10) + 4000u);
}

TEST_P(EncodeInOrderTest, ADocumentLargerThanTheWindowIsTakenAlone) {
  EXPECT_TRUE(EncodeInOrder(Work(5, 3'000'000), Limits(1000)).ok());
  ExpectConsumed(5);
  EXPECT_LE(unconsumed_max_, 6'000'000u);
}

TEST_P(EncodeInOrderTest, NothingToReadIsNoError) {
  EXPECT_TRUE(EncodeInOrder(Work(0, 1), Limits()).ok());
  EXPECT_TRUE(consumed_.empty());
}

TEST_P(EncodeInOrderTest, TheFirstErrorInOrderEndsTheWorkAndAllBeforeItIsConsumed) {
  EncodeWork work = Work(20'000, 100);
  const auto encode = work.encode;
  work.encode = [&](RawDocument document) {
    const uint64_t line = document.position.line;
    EncodedDocument encoded = encode(std::move(document));
    if (line == 7000 || line == 7001 || line == 9000) encoded.status = absl::DataLossError(std::to_string(line));
    return encoded;
  };
  EXPECT_EQ(EncodeInOrder(work, Limits()), absl::DataLossError("7000"));
  ExpectConsumed(7000);
}

TEST_P(EncodeInOrderTest, WhatWasReadBeforeAnErrorOfReadingIsConsumed) {
  EncodeWork work = Work(20'000, 100);
  const auto read = work.read;
  work.read = [&](RawDocument* document) -> absl::StatusOr<bool> {
    if (read_ == 5000) return absl::DataLossError("damaged");
    return read(document);
  };
  EXPECT_EQ(EncodeInOrder(work, Limits()), absl::DataLossError("damaged"));
  ExpectConsumed(5000);
}

TEST_P(EncodeInOrderTest, AnErrorOfConsumingEndsTheWork) {
  EncodeWork work = Work(1'000'000, 100);
  const auto consume = work.consume;
  work.consume = [&](const EncodedDocument& document) {
    if (consumed_.size() == 300) return absl::InternalError("disk full");
    return consume(document);
  };
  EXPECT_EQ(EncodeInOrder(work, Limits()), absl::InternalError("disk full"));
  ExpectConsumed(300);
}

TEST_P(EncodeInOrderTest, WhatConsumingThrowsIsThrownOn) {
  EncodeWork work = Work(1'000'000, 100);
  const auto consume = work.consume;
  work.consume = [&](const EncodedDocument& document) {
    if (consumed_.size() == 300) throw std::runtime_error("disk full");
    return consume(document);
  };
  EXPECT_THROW(EncodeInOrder(work, Limits()).IgnoreError(), std::runtime_error);
  ExpectConsumed(300);
}

}  // namespace
}  // namespace normlab::cli
