#include "server/session/token_log.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;

constexpr int32_t kVocab = 50;

// Three turns of 60 tokens, whose answers begin at 20, 80 and 140; the log holds `limit`.
TokenLog Talk(int64_t limit) {
  TokenLog log(limit);
  SessionPoint point;
  for (int64_t turn = 0; turn < 3; ++turn) {
    log.BeginTurn(point, /*generates=*/true, /*new_input=*/turn != 1);
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t at = 60 * turn + i;
      const auto token = static_cast<int32_t>(at * 7 % kVocab);
      log.Put(at, token, /*drawn=*/i >= 20);
      point.fed = at;
      point.pending = token;
    }
    point.answer_tail = {static_cast<int32_t>(turn), 1};
  }
  return log;
}

void ExpectSame(const TokenLog& one, const TokenLog& other) {
  ASSERT_EQ(one.begin(), other.begin());
  ASSERT_EQ(one.end(), other.end());
  EXPECT_EQ(one.Tokens(one.begin(), one.end()), other.Tokens(one.begin(), one.end()));
  for (int64_t context = one.begin() + 1; context <= one.end(); ++context) {
    const SessionPoint a = one.PointAt(context), b = other.PointAt(context);
    EXPECT_EQ(a.fed, b.fed);
    EXPECT_EQ(a.pending, b.pending);
    EXPECT_EQ(a.answer_open, b.answer_open);
    EXPECT_EQ(a.answer_tail, b.answer_tail) << context;
  }
}

TEST(TokenLog, IsTheSameAfterItWasBytes) {
  for (const int64_t limit : {1, 30, 100, 1000}) {
    const TokenLog log = Talk(limit);
    const auto parsed = TokenLog::Parse(log.Serialize(), kVocab, 180);
    ASSERT_THAT(parsed, IsOk()) << limit;
    ExpectSame(log, *parsed);
    EXPECT_EQ(parsed->Serialize(), log.Serialize());
  }
  TokenLog restarted(100);
  restarted.Restart(SessionPoint());
  EXPECT_THAT(TokenLog::Parse(restarted.Serialize(), kVocab, 0), IsOk());
  restarted.Restart({.fed = 50, .pending = 9, .answer_open = true, .answer_tail = {8, 9}});
  const auto parsed = TokenLog::Parse(restarted.Serialize(), kVocab, 51);
  ASSERT_THAT(parsed, IsOk());
  ExpectSame(restarted, *parsed);
  EXPECT_THAT(TokenLog::Parse(TokenLog().Serialize(), kVocab, 77), IsOk());
}

TEST(TokenLog, TakesAboutFourBytesAToken) {
  TokenLog log(100'000);
  log.BeginTurn({}, /*generates=*/false, /*new_input=*/true);
  for (int64_t at = 0; at < 100'000; ++at) log.Put(at, 1, /*drawn=*/false);
  EXPECT_LT(log.Serialize().size(), 400'000u + 100u);
}

TEST(TokenLog, WhatIsCutOrContradictsItselfIsRefused) {
  const std::string bytes = Talk(100).Serialize();
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_);
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_THAT(TokenLog::Parse(bytes.substr(0, size), kVocab, 180), refused) << size;
  }
  EXPECT_THAT(TokenLog::Parse(bytes + "x", kVocab, 180), refused);
  EXPECT_THAT(TokenLog::Parse(bytes, kVocab - 1, 180), refused) << "a token of another model";
  EXPECT_THAT(TokenLog::Parse(bytes, kVocab, 179), refused) << "where the session does not stand";
  EXPECT_THAT(TokenLog::Parse(bytes, kVocab, 181), refused);
}

// Whatever is accepted can be used: every position has its point, and the log grows on.
TEST(TokenLog, WhateverIsAcceptedCanBeUsed) {
  const std::string bytes = Talk(20).Serialize();
  int accepted = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int value : {0, 1, 2, 0x10, 0x7f, 0x80, 0xff}) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      auto log = TokenLog::Parse(changed, kVocab, 180);
      if (!log.ok()) continue;
      ++accepted;
      for (int64_t context = log->begin() + 1; context <= log->end(); ++context) {
        EXPECT_LE(log->PointAt(context).answer_tail.size(), SessionPoint::kAnswerTail);
      }
      log->BeginTurn({.fed = 179, .pending = 3, .answer_tail = {}}, /*generates=*/true,
                     /*new_input=*/true);
      for (int64_t next = 180; next < 240; ++next) log->Put(next, 1, /*drawn=*/true);
      EXPECT_EQ(log->PointAt(240).answer_tail.size(), SessionPoint::kAnswerTail);
    }
  }
  EXPECT_GT(accepted, 0);
}

TEST(TokenLog, ASmallerLimitForgetsTheOldest) {
  TokenLog log = Talk(100), small = Talk(30);
  log.SetLimit(30);
  ExpectSame(log, small);
  log.SetLimit(1000);  // what is forgotten stays so
  ExpectSame(log, small);
  log.SetLimit(0);
  EXPECT_FALSE(log.remembers());
  EXPECT_EQ(log.end(), 0);
}

TEST(TokenLogTest, MoreThanIsRememberedMayBeFedAgain) {
  TokenLog log(/*limit=*/8);
  log.BeginTurn({}, /*generates=*/false, /*new_input=*/true);
  for (int32_t at = 0; at < 100; ++at) log.Put(at, at, /*drawn=*/false);
  const std::string before = log.Serialize();
  for (int32_t at = 0; at < 100; ++at) log.Put(at, at, /*drawn=*/false);
  EXPECT_EQ(log.Serialize(), before);
}

}  // namespace
}  // namespace gma
