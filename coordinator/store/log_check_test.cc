#include "coordinator/store/log_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace normlab::store {
namespace {

using ::testing::HasSubstr;

std::string LittleEndian(uint32_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> 8 * i));
  return text;
}

/// One whole record, as RocksDB writes it.
std::string Record(const std::string& payload) {
  const std::string covered = '\1' + payload;
  const uint32_t crc = Crc32c(covered);
  return LittleEndian((crc >> 15 | crc << 17) + 0xa282ead8, 4) +
         LittleEndian(static_cast<uint32_t>(payload.size()), 2) + covered;
}

const std::string kThree = Record("first record") + Record("second record") + Record("the third and last record");
const size_t kLast = kThree.size() - Record("the third and last record").size();

TEST(LogCheckTest, HasTheChecksumOfTheStandard) { EXPECT_EQ(Crc32c("123456789"), 0xe3069283u); }

TEST(LogCheckTest, TakesWhatIsWhole) {
  EXPECT_TRUE(CheckLog("log", "").ok());
  EXPECT_TRUE(CheckLog("log", kThree).ok());
  // Full blocks, with a trailer that is too short for a header.
  std::string blocks = Record(std::string(32'768 - 7 - 5, 'x'));
  blocks += std::string(32'768 - blocks.size() % 32'768, '\0') + Record("in the second block");
  EXPECT_TRUE(CheckLog("log", blocks).ok());
}

TEST(LogCheckTest, ForgivesARecordThatWasCutOffAtAnyByte) {
  for (size_t size = kLast; size < kThree.size(); ++size) {
    EXPECT_TRUE(CheckLog("log", kThree.substr(0, size)).ok()) << size;
  }
  EXPECT_TRUE(CheckLog("log", kThree + std::string(4096, '\0')).ok()) << "space that was never written to";
}

TEST(LogCheckTest, RefusesEveryFlippedBitOfEveryRecord) {
  for (size_t offset = 0; offset < kThree.size(); ++offset) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = kThree;
      flipped[offset] = static_cast<char>(flipped[offset] ^ 1 << bit);
      const absl::Status status = CheckLog("log", flipped);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << "byte " << offset << " bit " << bit;
      EXPECT_THAT(std::string(status.message()), HasSubstr("log is damaged at byte"));
    }
  }
}

TEST(LogCheckTest, RefusesARecordThatIsShortBeforeOthers) {
  EXPECT_FALSE(CheckLog("log", kThree.substr(0, 10) + kThree.substr(Record("first record").size())).ok());
}

}  // namespace
}  // namespace normlab::store
