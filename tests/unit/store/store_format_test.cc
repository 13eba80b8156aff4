#include "server/store/store_format.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

TEST(StoreFormatTest, ChecksumIsThatOfTheStandard) {
  // RFC 3720, B.4, and the check value of the CRC catalogue.
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283U);
}

StoreHeader SomeHeader() {
  return {false, 7, 3, absl::Seconds(90), absl::FromUnixSeconds(1'700'000'000), 8'400'000};
}

TEST(StoreFormatTest, AHeaderComesBackAsItWas) {
  const std::string bytes = EncodeStoreHeader(SomeHeader());
  ASSERT_EQ(bytes.size(), kStoreHeaderBytes);
  GMA_ASSERT_OK_AND_ASSIGN(const StoreHeader header, DecodeStoreHeader(bytes));
  EXPECT_FALSE(header.tombstone);
  EXPECT_EQ(header.epoch, 7U);
  EXPECT_EQ(header.generation, 3U);
  EXPECT_EQ(header.ttl, absl::Seconds(90));
  EXPECT_EQ(header.saved_at, absl::FromUnixSeconds(1'700'000'000));
  EXPECT_EQ(header.blob_bytes, 8'400'000U);
}

TEST(StoreFormatTest, AHeaderCutOrFlippedAnywhereIsRefused) {
  const std::string bytes = EncodeStoreHeader(SomeHeader());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(DecodeStoreHeader(bytes.substr(0, length)),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("bytes")));
  }
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(DecodeStoreHeader(flipped).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
}

// Three records; each frame says that the journal was durable up to `synced` of those before it.
std::string ThreeFrames(bool synced) {
  std::string bytes;
  for (const char* record : {"first record", "second", "the third record"}) {
    bytes += EncodeFrame({false, 2, absl::Seconds(60), absl::FromUnixSeconds(1'700'000'000),
                          synced ? bytes.size() : 0, record});
  }
  return bytes;
}

TEST(StoreFormatTest, AJournalCutAnywhereKeepsTheWholeRecordsBefore) {
  const std::string bytes = ThreeFrames(true);
  const size_t first = kFrameHeaderBytes + 12, second = first + kFrameHeaderBytes + 6;
  for (size_t length = 0; length <= bytes.size(); ++length) {
    const std::string cut = bytes.substr(0, length);
    GMA_ASSERT_OK_AND_ASSIGN(const JournalContents journal, DecodeJournal(cut));
    const size_t whole = length < first ? 0 : length < second ? 1 : length < bytes.size() ? 2 : 3;
    ASSERT_EQ(journal.frames.size(), whole) << length;
    EXPECT_EQ(journal.torn, journal.whole_bytes != length) << length;
    if (whole > 1) {
      EXPECT_EQ(journal.frames[1].record, "second");
    }
  }
}

TEST(StoreFormatTest, AFlippedBitInTheLastRecordIsATornTail) {
  const std::string bytes = ThreeFrames(true);
  const size_t last = bytes.size() - kFrameHeaderBytes - 16;
  for (size_t bit = 8 * last; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    GMA_ASSERT_OK_AND_ASSIGN(const JournalContents journal, DecodeJournal(flipped));
    EXPECT_EQ(journal.frames.size(), 2U) << bit;
    EXPECT_TRUE(journal.torn) << bit;
  }
}

TEST(StoreFormatTest, AFlippedBitInADurableEarlierRecordIsDamage) {
  const std::string bytes = ThreeFrames(true);
  const size_t last = bytes.size() - kFrameHeaderBytes - 16;
  for (size_t bit = 0; bit < 8 * last; ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_THAT(DecodeJournal(flipped),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("record at byte")))
        << bit;
  }
}

// A power cut may leave later pages of what was not synced on the disk, and not earlier ones.
TEST(StoreFormatTest, AHoleInWhatWasNeverSyncedIsATornTail) {
  std::string bytes = ThreeFrames(false);
  bytes[kFrameHeaderBytes] = '\0';
  GMA_ASSERT_OK_AND_ASSIGN(const JournalContents journal, DecodeJournal(bytes));
  EXPECT_TRUE(journal.frames.empty());
  EXPECT_TRUE(journal.torn);
}

}  // namespace
}  // namespace gma
