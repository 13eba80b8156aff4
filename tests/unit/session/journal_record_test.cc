#include "server/session/journal_record.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/session/golden_file.h"
#include "tests/unit/session/sealed_fixture.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using testing::GoldenFile;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Pair;
using testing::StatusIs;

constexpr auto kBad = absl::StatusCode::kInvalidArgument;
constexpr size_t kNonceAt = 24;
const auto kRefused = StatusIs(kBad, ::testing::_);

// As make_snapshot.py has them. Nothing has its default value.
TurnBeginRecord Begin() {
  TurnBeginRecord record;
  record.first_sequence = 78;
  record.key = "key-2";
  record.kind = TurnKind::kAnswer;
  record.context_before = 1001;
  record.feed = {1, 2, 3};
  record.new_input = true;
  record.sampling = {.temperature = 0.7,
                     .top_k = 40,
                     .top_p = 0.9,
                     .min_p = 0.05,
                     .typical_p = 0.95,
                     .repetition_penalty = 1.1,
                     .presence_penalty = 0.25,
                     .frequency_penalty = -0.5,
                     .logit_bias = {{4, 1.5f}, {5, -100.0f}},
                     .banned_tokens = {6, 7},
                     .allowed_tokens = {8, 9, 10},
                     .seed = std::numeric_limits<uint64_t>::max() - 2,
                     .top_logprobs = 5};
  record.stop = {.max_tokens = 256,
                 .min_tokens = 2,
                 .stop_tokens = {11},
                 .stop_strings = {"\n\n", "Ünd"},
                 .ignore_eos = true};
  return record;
}
InterjectionRecord Interjection() { return {.drawn = 9, .tokens = {12, 13}}; }
TurnEndRecord End() {
  return {.reason = FinishReason::kLength,
          .drawn = {14, 15},
          .failed = false,
          .context_after = 1008,
          .last_sequence = 81};
}

class JournalRecordTest : public ::testing::Test {
 protected:
  RecordPlace Place(int64_t number) const { return {"alice", testing::GoldenId(), number}; }
  std::string Seal(int64_t number, const JournalRecord& record) {
    return SealRecord(scope, Place(number), record);
  }
  absl::StatusOr<JournalRecord> Open(int64_t number, std::string_view bytes) {
    return OpenRecord(scope, Place(number), bytes);
  }

  const std::vector<std::pair<std::string, JournalRecord>> golden = {
      {"record_v1_turn_begin.bin", Begin()},
      {"record_v1_interjection.bin", Interjection()},
      {"record_v1_turn_end.bin", End()}};
  SnapshotScope scope = testing::GoldenScope();
};

TEST_F(JournalRecordTest, EveryFieldSurvives) {
  const auto opened = Open(5, Seal(5, Begin()));
  ASSERT_THAT(opened, IsOk());
  const auto& record = std::get<TurnBeginRecord>(*opened);
  EXPECT_EQ(record.first_sequence, 78);
  EXPECT_EQ(record.key, "key-2");
  EXPECT_EQ(record.kind, TurnKind::kAnswer);
  EXPECT_EQ(record.context_before, 1001);
  EXPECT_THAT(record.feed, ElementsAre(1, 2, 3));
  EXPECT_TRUE(record.new_input);
  const SamplingParams& sampling = record.sampling;
  EXPECT_EQ(sampling.temperature, 0.7);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.top_p, 0.9);
  EXPECT_EQ(sampling.min_p, 0.05);
  EXPECT_EQ(sampling.typical_p, 0.95);
  EXPECT_EQ(sampling.repetition_penalty, 1.1);
  EXPECT_EQ(sampling.presence_penalty, 0.25);
  EXPECT_EQ(sampling.frequency_penalty, -0.5);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(Pair(4, 1.5f), Pair(5, -100.0f)));
  EXPECT_THAT(sampling.banned_tokens, ElementsAre(6, 7));
  EXPECT_THAT(sampling.allowed_tokens, ElementsAre(8, 9, 10));
  EXPECT_EQ(sampling.seed, std::numeric_limits<uint64_t>::max() - 2);
  EXPECT_EQ(sampling.top_logprobs, 5);
  EXPECT_EQ(record.stop.max_tokens, 256);
  EXPECT_EQ(record.stop.min_tokens, 2);
  EXPECT_THAT(record.stop.stop_tokens, ElementsAre(11));
  EXPECT_THAT(record.stop.stop_strings, ElementsAre("\n\n", "Ünd"));
  EXPECT_TRUE(record.stop.ignore_eos);

  const auto interjection = Open(6, Seal(6, Interjection()));
  ASSERT_THAT(interjection, IsOk());
  EXPECT_EQ(std::get<InterjectionRecord>(*interjection).drawn, 9);
  EXPECT_THAT(std::get<InterjectionRecord>(*interjection).tokens, ElementsAre(12, 13));

  const auto runs = Open(6, Seal(6, TurnRunsRecord()));
  ASSERT_THAT(runs, IsOk());
  EXPECT_TRUE(std::holds_alternative<TurnRunsRecord>(*runs));

  TurnEndRecord failed = End();
  failed.failed = true;
  const auto end = Open(7, Seal(7, failed));
  ASSERT_THAT(end, IsOk());
  const auto& ended = std::get<TurnEndRecord>(*end);
  EXPECT_EQ(ended.reason, FinishReason::kLength);
  EXPECT_THAT(ended.drawn, ElementsAre(14, 15));
  EXPECT_TRUE(ended.failed);
  EXPECT_EQ(ended.context_after, 1008);
  EXPECT_EQ(ended.last_sequence, 81);
}

// What a server of this version writes, any later one reads, and the other way around.
TEST_F(JournalRecordTest, TheGoldenFilesAreReadAndWritten) {
  for (size_t i = 0; i < golden.size(); ++i) {
    const auto& [name, record] = golden[i];
    const auto number = static_cast<int64_t>(5 + i);
    const std::string file = GoldenFile(name);
    const auto opened = Open(number, file);
    ASSERT_THAT(opened, IsOk()) << name;
    EXPECT_EQ(WriteRecordBody(*opened), WriteRecordBody(record)) << name;
    const std::string written = Seal(number, record);
    EXPECT_EQ(written.substr(0, kNonceAt), file.substr(0, kNonceAt)) << name;
    EXPECT_EQ(written.size(), file.size()) << name;
    EXPECT_NE(written, Seal(number, record));  // a new nonce each time
  }
}

TEST_F(JournalRecordTest, AChangedBitIsSeenAndSoIsACut) {
  for (size_t i = 0; i < golden.size(); ++i) {
    const std::string file = GoldenFile(golden[i].first);
    const auto number = static_cast<int64_t>(5 + i);
    for (size_t bit = 0; bit < 8 * file.size(); ++bit) {
      std::string changed = file;
      changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
      const auto opened = Open(number, changed);
      ASSERT_FALSE(opened.ok()) << bit;
      if (bit / 8 < 12) continue;  // magic and version are named
      ASSERT_THAT(opened, StatusIs(kBad, HasSubstr("was changed"))) << bit;
    }
    for (size_t size = 0; size < file.size(); ++size) {
      ASSERT_THAT(Open(number, file.substr(0, size)), kRefused) << size;
    }
    EXPECT_THAT(Open(number, file + "x"), StatusIs(kBad, HasSubstr("was changed")));
  }
}

TEST_F(JournalRecordTest, AnothersPlaceIsNamed) {
  const std::string bytes = Seal(5, End());
  EXPECT_THAT(Open(6, bytes),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("record 5 comes once more")));
  EXPECT_THAT(Open(3, bytes),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("record 3 of the journal of session 00112233 is missing: record 5 "
                                 "stands in its place")));
  const auto another = StatusIs(kBad, HasSubstr("is another session's or another model's"));
  EXPECT_THAT(OpenRecord(scope, {"bob", testing::GoldenId(), 5}, bytes), another);
  EXPECT_THAT(
      OpenRecord(scope, {"alice", *SessionId::FromHex("00112233445566778899aabbccddeefe"), 5},
                 bytes),
      another);
  const SnapshotScope own = scope;
  scope.fingerprint[0] = '2';
  EXPECT_THAT(Open(5, bytes), another);
  scope = own;
  scope.key = StateKey::Random();
  EXPECT_THAT(Open(5, bytes), another);
  scope = own;
  std::string other = bytes;
  other[8] = 2;
  EXPECT_THAT(Open(5, other), StatusIs(absl::StatusCode::kFailedPrecondition,
                                       HasSubstr("format version 2, this server reads version 1")));
  other = bytes;
  other[0] = 'X';
  EXPECT_THAT(Open(5, other), StatusIs(kBad, HasSubstr("is none")));
  EXPECT_THAT(Open(5, std::string(kMaxRecordBytes + 1, 'x')),
              StatusIs(kBad, HasSubstr("has 33554433 bytes, must be in [52, 33554432]")));
  // A snapshot is no record.
  EXPECT_THAT(Open(5, GoldenFile("session_v2.bin")), StatusIs(kBad, HasSubstr("is none")));
}

TEST_F(JournalRecordTest, WhatContradictsItselfIsRefusedAlthoughItIsSealed) {
  const std::vector<void (*)(TurnBeginRecord&)> wrong_begins = {
      [](TurnBeginRecord& record) { record.first_sequence = 0; },
      [](TurnBeginRecord& record) { record.key = std::string(65, 'k'); },
      [](TurnBeginRecord& record) { record.kind = TurnKind::kReplay; },
      [](TurnBeginRecord& record) { record.context_before = -1; },
      [](TurnBeginRecord& record) { record.feed.push_back(50); },
      [](TurnBeginRecord& record) { record.sampling.logit_bias[0].first = -1; },
      [](TurnBeginRecord& record) { record.sampling.banned_tokens[0] = 50; },
      [](TurnBeginRecord& record) { record.sampling.allowed_tokens[0] = -1; },
      [](TurnBeginRecord& record) { record.stop.stop_tokens[0] = 50; },
      [](TurnBeginRecord& record) { record.stop.stop_strings[0] = ""; },
  };
  for (size_t i = 0; i < wrong_begins.size(); ++i) {
    TurnBeginRecord record = Begin();
    wrong_begins[i](record);
    EXPECT_THAT(Open(5, Seal(5, record)), StatusIs(kBad, HasSubstr("contradicts"))) << i;
  }
  InterjectionRecord interjection = Interjection();
  interjection.drawn = -1;
  EXPECT_THAT(Open(6, Seal(6, interjection)), StatusIs(kBad, HasSubstr("contradicts")));
  TurnEndRecord end = End();
  end.reason = static_cast<FinishReason>(6);
  EXPECT_THAT(Open(7, Seal(7, end)), StatusIs(kBad, HasSubstr("contradicts")));
  end = End();
  end.drawn[0] = 50;
  EXPECT_THAT(Open(7, Seal(7, end)), StatusIs(kBad, HasSubstr("contradicts")));
  EXPECT_THAT(ReadRecordBody("\x04", 50), StatusIs(kBad, HasSubstr("of kind 4")));
}

TEST_F(JournalRecordTest, ABodyThatIsCutIsRefusedAndClaimsNoMemory) {
  const std::string body = WriteRecordBody(Begin());
  for (size_t size = 0; size < body.size(); ++size) {
    EXPECT_THAT(ReadRecordBody(body.substr(0, size), 50), kRefused) << size;
  }
  // A list that claims 2^32 - 1 tokens.
  std::string claims = WriteRecordBody(Interjection());
  claims.replace(9, 4, "\xff\xff\xff\xff");
  EXPECT_THAT(ReadRecordBody(claims, 50), kRefused);
}

TEST_F(JournalRecordTest, TheLargestRequestFits) {
  TurnBeginRecord record = Begin();
  record.feed.assign(1 << 20, 49);
  record.sampling.logit_bias.assign(1024, {1, 1.0f});
  record.sampling.banned_tokens.assign(1024, 1);
  record.sampling.allowed_tokens.assign(1 << 20, 1);
  record.stop.stop_strings.assign(4, std::string(256, 's'));
  const std::string bytes = Seal(5, record);
  EXPECT_LT(bytes.size(), kMaxRecordBytes / 2);
  const auto opened = Open(5, bytes);
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(WriteRecordBody(*opened), WriteRecordBody(record));
}

}  // namespace
}  // namespace gma
