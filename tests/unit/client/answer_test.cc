#include "client/lib/answer.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gma::client {
namespace {

v1::Tokens TokensOf(const std::vector<std::string>& texts, int32_t candidate = 0) {
  v1::Tokens tokens;
  tokens.set_candidate(candidate);
  for (const std::string& text : texts) tokens.add_tokens()->set_text(text);
  return tokens;
}

v1::Finished FinishedOf(const std::string& text, int32_t candidate = 0) {
  v1::Finished finished;
  finished.set_candidate(candidate);
  finished.set_text(text);
  finished.set_reason(v1::FINISH_REASON_LENGTH);
  return finished;
}

TEST(AnswerAssembler, CharactersCutBetweenTokensComeOutWhole) {
  AnswerAssembler answer(1);
  EXPECT_EQ(answer.Feed(TokensOf({"a\xE2"}))->text, "a");
  EXPECT_EQ(answer.Feed(TokensOf({"\x82"}))->text, "");
  const absl::StatusOr<AnswerPiece> piece = answer.Feed(TokensOf({"\xAC", "!"}));
  EXPECT_EQ(piece->text, "\xE2\x82\xAC!");
  EXPECT_EQ(piece->tokens.size(), 2u);
  EXPECT_FALSE(answer.complete());
}

TEST(AnswerAssembler, TheEndBringsHeldBackTextAndReplacesHalfACharacter) {
  AnswerAssembler answer(1);
  EXPECT_EQ(answer.Feed(TokensOf({"\xE2\x82"}))->text, "");
  const absl::StatusOr<AnswerPiece> piece = answer.Feed(FinishedOf("\xACx\xE2"));
  EXPECT_EQ(piece->text, "\xE2\x82\xACx\xEF\xBF\xBD");
  EXPECT_EQ(piece->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(answer.complete());
}

TEST(AnswerAssembler, CandidatesDoNotMix) {
  AnswerAssembler answer(2);
  EXPECT_EQ(answer.Feed(TokensOf({"\xC3"}, 0))->text, "");
  EXPECT_EQ(answer.Feed(TokensOf({"x"}, 1))->text, "x");
  EXPECT_EQ(answer.Feed(TokensOf({"\xA9"}, 0))->text, "\xC3\xA9");
  ASSERT_TRUE(answer.Feed(FinishedOf("", 1)).ok());
  EXPECT_FALSE(answer.complete());
  ASSERT_TRUE(answer.Feed(FinishedOf("", 0)).ok());
  EXPECT_TRUE(answer.complete());
}

TEST(AnswerAssembler, RefusesWhatComesAfterTheEndAndUnknownCandidates) {
  AnswerAssembler answer(2);
  EXPECT_EQ(answer.Feed(TokensOf({"x"}, 2)).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(answer.Feed(TokensOf({"x"}, -1)).status().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(answer.Feed(FinishedOf("")).ok());
  EXPECT_EQ(answer.Feed(TokensOf({"x"})).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(answer.Feed(FinishedOf("")).status().code(), absl::StatusCode::kInternal);
}

TEST(SequenceCheck, NoticesLostAndRepeatedEvents) {
  SequenceCheck check;
  EXPECT_TRUE(check.Accept(1, 1, /*begins=*/true).ok());
  EXPECT_TRUE(check.Accept(2, 3, /*begins=*/false).ok());
  EXPECT_TRUE(check.Accept(0, 1, /*begins=*/false).ok());  // a heartbeat
  EXPECT_TRUE(check.Accept(5, 1, /*begins=*/false).ok());
  EXPECT_EQ(check.Accept(5, 1, /*begins=*/false).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(check.Accept(7, 1, /*begins=*/false).code(), absl::StatusCode::kDataLoss);
}

TEST(SequenceCheck, LetsASessionHaveHadOtherTurns) {
  SequenceCheck check;
  EXPECT_TRUE(check.Accept(57, 1, /*begins=*/true).ok());
  EXPECT_TRUE(check.Accept(58, 1, /*begins=*/false).ok());
  EXPECT_TRUE(check.Accept(70, 1, /*begins=*/true).ok());
  EXPECT_EQ(check.Accept(60, 1, /*begins=*/true).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace gma::client
