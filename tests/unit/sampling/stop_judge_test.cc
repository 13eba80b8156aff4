#include "model/sampling/stop_judge.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/sampling/philox.h"

namespace gma {
namespace {

constexpr int32_t kWord = 7, kEnd = 2;

StopParams Params(int64_t max_tokens, std::vector<std::string> stop_strings = {}) {
  StopParams params;
  params.max_tokens = max_tokens;
  params.stop_strings = std::move(stop_strings);
  return params;
}

struct Outcome {
  FinishReason reason = FinishReason::kNone;
  std::string shown;
  size_t judged = 0;
};

// Feeds pieces until the judge ends the answer.
Outcome Answer(StopJudge& judge, const std::vector<std::string>& pieces) {
  Outcome outcome;
  for (const std::string& piece : pieces) {
    StopJudge::Verdict verdict = judge.Judge(kWord, piece);
    outcome.shown += verdict.text;
    outcome.reason = verdict.reason;
    ++outcome.judged;
    if (verdict.reason != FinishReason::kNone) break;
  }
  return outcome;
}

Outcome Answer(const StopParams& params, const std::vector<std::string>& pieces) {
  StopJudge judge(params, {kEnd});
  return Answer(judge, pieces);
}

TEST(StopJudge, WithoutStopsEveryPieceIsShownAtOnce) {
  StopJudge judge(Params(10), {kEnd});
  StopJudge::Verdict verdict = judge.Judge(kWord, "text");
  EXPECT_EQ(verdict.reason, FinishReason::kNone);
  EXPECT_EQ(verdict.text, "text");
  EXPECT_EQ(judge.Flush(), "");
}

TEST(StopJudge, LengthEndsTheAnswerWithItsLastPiece) {
  const Outcome outcome = Answer(Params(2), {"a", "b", "c"});
  EXPECT_EQ(outcome.reason, FinishReason::kLength);
  EXPECT_EQ(outcome.shown, "ab");
  EXPECT_EQ(Answer(Params(1), {"a", "b"}).shown, "a");
}

TEST(StopJudge, EndTokensGiveNoTextUnlessTheyAreIgnored) {
  StopJudge judge(Params(10), {kEnd});
  StopJudge::Verdict verdict = judge.Judge(kEnd, "<end>");
  EXPECT_EQ(verdict.reason, FinishReason::kEndOfText);
  EXPECT_EQ(verdict.text, "");
  StopParams ignoring = Params(10);
  ignoring.ignore_eos = true;
  StopJudge deaf(ignoring, {kEnd});
  verdict = deaf.Judge(kEnd, "<end>");
  EXPECT_EQ(verdict.reason, FinishReason::kNone);
  EXPECT_EQ(verdict.text, "<end>");
}

TEST(StopJudge, StopTokensAreTheRequestsOwnAndIgnoreEosLeavesThem) {
  StopParams params = Params(10);
  params.stop_tokens = {9, kEnd};
  params.ignore_eos = true;
  StopJudge judge(params, {kEnd});
  EXPECT_EQ(judge.Judge(9, "nine").reason, FinishReason::kStopToken);
  StopJudge other(params, {kEnd});
  EXPECT_EQ(other.Judge(kEnd, "").reason, FinishReason::kStopToken);
}

TEST(StopJudge, AStopStringIsCutOutHoweverItIsSplit) {
  const std::vector<std::vector<std::string>> splits = {{"Hello END more"},
                                                        {"Hello ", "END", " more"},
                                                        {"Hello E", "N", "D more"},
                                                        {"Hello EN", "D"},
                                                        {"H", "ello", " ", "E", "N", "D", "!"}};
  for (const auto& pieces : splits) {
    const Outcome outcome = Answer(Params(20, {"END"}), pieces);
    EXPECT_EQ(outcome.reason, FinishReason::kStopString);
    EXPECT_EQ(outcome.shown, "Hello ");
  }
}

TEST(StopJudge, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopJudge judge(Params(20, {"END"}), {kEnd});
  EXPECT_EQ(judge.Judge(kWord, "THE E").text, "THE ");
  EXPECT_EQ(judge.Judge(kWord, "N").text, "");
  EXPECT_EQ(judge.Judge(kWord, "E").text, "EN") << "the new E may start another one";
  EXPECT_EQ(judge.Judge(kWord, "x").text, "Ex");
}

TEST(StopJudge, WhatWasHeldBackIsReleasedWhenTheAnswerEndsOtherwise) {
  EXPECT_EQ(Answer(Params(2, {"END"}), {"a E", "N"}).shown, "a EN");
  StopJudge by_token(Params(9, {"END"}), {kEnd});
  EXPECT_EQ(by_token.Judge(kWord, "a EN").text, "a ");
  EXPECT_EQ(by_token.Judge(kEnd, "").text, "EN");
  StopJudge cancelled(Params(9, {"END"}), {kEnd});
  EXPECT_EQ(cancelled.Judge(kWord, "a EN").text, "a ");
  EXPECT_EQ(cancelled.Flush(), "EN");
  EXPECT_EQ(cancelled.Flush(), "");
}

TEST(StopJudge, AStopStringOnTheLastTokenIsAStopAndNotALength) {
  const Outcome outcome = Answer(Params(2, {"END"}), {"a EN", "D"});
  EXPECT_EQ(outcome.reason, FinishReason::kStopString);
  EXPECT_EQ(outcome.shown, "a ");
}

TEST(StopJudge, AStringThatRepeatsItsOwnStartIsFound) {
  EXPECT_EQ(Answer(Params(20, {"aab"}), {"a", "a", "a", "b"}).shown, "a");
  EXPECT_EQ(Answer(Params(20, {"\n\n"}), {"x\n", "y\n", "\nz"}).shown, "x\ny");
  EXPECT_EQ(Answer(Params(20, {"ababac"}), {"abab", "abac"}).shown, "ab");
}

TEST(StopJudge, BytesOfHalfACharacterAreBytes) {
  EXPECT_EQ(Answer(Params(20, {"\xc3\xa9"}), {"caf\xc3", "\xa9"}).shown, "caf");
  EXPECT_EQ(Answer(Params(20, {std::string("\0", 1)}), {std::string("a\0b", 3)}).shown, "a");
}

TEST(StopJudge, MinimumTokensComeBeforeAnyStopToken) {
  StopParams params = Params(10);
  params.min_tokens = 2;
  params.stop_tokens = {9};
  StopJudge judge(params, {kEnd});
  EXPECT_EQ(judge.Judge(9, "nine").reason, FinishReason::kNone);
  EXPECT_EQ(judge.Judge(kEnd, "").reason, FinishReason::kNone);
  EXPECT_EQ(judge.Judge(kEnd, "").reason, FinishReason::kEndOfText);
}

TEST(StopJudge, AStopStringBeforeTheMinimumIsOrdinaryText) {
  StopParams params = Params(10, {"END"});
  params.min_tokens = 3;
  StopJudge judge(params, {kEnd});
  const Outcome early = Answer(judge, {"END", " a END", " EN", "D"});
  EXPECT_EQ(early.reason, FinishReason::kStopString) << "completed by token 4";
  EXPECT_EQ(early.shown, "END a END ");
  EXPECT_EQ(Answer(params, {"a", "b", "END"}).reason, FinishReason::kStopString)
      << "token 3 is enough";
}

TEST(StopJudge, AStringThatWasPassedOverStaysPassedOver) {
  StopParams params = Params(10, {"abc", "b"});
  params.min_tokens = 2;
  // "b" ended in token 1, before the minimum; it is still held as a start of "abc" in token 2.
  const Outcome outcome = Answer(params, {"ab", "x", "y"});
  EXPECT_EQ(outcome.reason, FinishReason::kNone);
  EXPECT_EQ(outcome.shown, "abxy");
}

// The naive rule over the whole text: the stop that ends first, the longest of those.
size_t FirstStop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    for (size_t begin = 0; begin < end; ++begin) {
      for (const std::string& stop : stops) {
        if (text.compare(begin, end - begin, stop) == 0) return begin;
      }
    }
  }
  return std::string::npos;
}

TEST(StopJudge, RandomTextsAndStopsAgreeWithTheNaiveRule) {
  uint64_t draw = 0;
  auto below = [&](uint64_t bound) {
    return static_cast<uint64_t>(PhiloxUniform(3, draw++) * static_cast<double>(bound));
  };
  auto word = [&](uint64_t size) {
    std::string text;
    for (uint64_t i = 0; i < size; ++i) text.push_back(static_cast<char>('a' + below(2)));
    return text;
  };
  for (int trial = 0; trial < 20'000; ++trial) {
    std::vector<std::string> stops;
    for (uint64_t i = below(4); i > 0; --i) stops.push_back(word(1 + below(6)));
    std::vector<std::string> pieces;
    std::string whole;
    for (int i = 0; i < 8; ++i) {
      pieces.push_back(word(below(4)));
      whole += pieces.back();
    }
    StopJudge judge(Params(1000, stops), {kEnd});
    Outcome outcome = Answer(judge, pieces);
    const size_t stop = FirstStop(whole, stops);
    if (stop == std::string::npos) {
      ASSERT_EQ(outcome.reason, FinishReason::kNone);
      ASSERT_EQ(outcome.shown + judge.Flush(), whole);
    } else {
      ASSERT_EQ(outcome.reason, FinishReason::kStopString);
      ASSERT_EQ(outcome.shown, whole.substr(0, stop));
    }
  }
}

}  // namespace
}  // namespace gma
