#include "server/session/session.h"

#include <memory>
#include <optional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/session/session_table.h"
#include "tests/support/fake_decoder.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SessionTest : public ::testing::Test {
 protected:
  SessionTest()
      : decoder(1, 1),
        pool(*StatePool::Create(decoder.state_layout(), 1)),
        session(owner, SessionId({1, 2}), 0, *pool->Acquire(), absl::Minutes(1), absl::Seconds(5)) {
  }

  // A whole turn that feeds `feed` and draws `answer`.
  void Turn(const std::vector<int32_t>& close, const std::vector<int32_t>& input,
            const std::vector<int32_t>& answer) {
    const std::vector<int32_t> feed = session.TokensToFeed(close, input);
    session.BeginTurn(TurnKind::kAnswer, /*new_input=*/!input.empty());
    session.Advance(feed, std::nullopt);
    for (size_t i = 0; i < answer.size(); ++i) {
      if (i > 0) session.Advance({answer[i - 1]}, std::nullopt);
      session.Draw(answer[i]);
    }
    session.EndTurn(absl::Seconds(6));
  }

  testing::FakeDecoder decoder;
  std::unique_ptr<StatePool> pool;
  Owner owner;
  Session session;
};

TEST_F(SessionTest, StartsWithNothingToGoOnFrom) {
  EXPECT_EQ(session.phase(), SessionPhase::kIdle);
  EXPECT_EQ(session.context_tokens(), 0);
  EXPECT_THAT(session.TokensToFeed({7, 8}, {}), IsEmpty());
  EXPECT_THAT(session.TokensToFeed({7, 8}, {1}), ElementsAre(1));
}

TEST_F(SessionTest, TheLastDrawnTokenIsPendingAndComesFirst) {
  Turn({}, {1, 2, 3}, {4, 5});
  EXPECT_EQ(session.fed(), 4);
  EXPECT_EQ(session.pending(), 5);
  EXPECT_EQ(session.context_tokens(), 5);
  EXPECT_THAT(session.TokensToFeed({}, {}), ElementsAre(5));
  EXPECT_THAT(session.TokensToFeed({}, {9}), ElementsAre(5, 9));
}

TEST_F(SessionTest, ClosesAnAnswerWithWhatItHasNotDrawn) {
  Turn({}, {1}, {4, 5});
  EXPECT_THAT(session.TokensToFeed({5, 8}, {9}), ElementsAre(5, 8, 9));     // drew the first
  EXPECT_THAT(session.TokensToFeed({4, 5}, {9}), ElementsAre(5, 9));        // drew both
  EXPECT_THAT(session.TokensToFeed({4, 5, 6}, {9}), ElementsAre(5, 6, 9));  // two of three
  EXPECT_THAT(session.TokensToFeed({4, 8}, {9}), ElementsAre(5, 4, 8, 9));  // not at the end
}

TEST_F(SessionTest, AnAnswerThatGoesOnRemembersWhatItDrewBefore) {
  Turn({}, {1}, {4});
  Turn({}, {}, {5});
  EXPECT_THAT(session.TokensToFeed({4, 5, 6}, {9}), ElementsAre(5, 6, 9));
  Turn({}, {2}, {5});  // new input: a new answer
  EXPECT_THAT(session.TokensToFeed({4, 5, 6}, {9}), ElementsAre(5, 4, 5, 6, 9));
}

TEST_F(SessionTest, AnInterruptedPromptLeavesItsNextTokenPending) {
  session.BeginTurn(TurnKind::kAnswer, true);
  session.Advance({31, 32}, 33);
  session.EndTurn(absl::Seconds(6));
  EXPECT_EQ(session.fed(), 2);
  EXPECT_THAT(session.TokensToFeed({}, {}), ElementsAre(33));
  // The answer never came, but its message is open and has to be closed.
  EXPECT_THAT(session.TokensToFeed({7}, {9}), ElementsAre(33, 7, 9));
}

TEST_F(SessionTest, ATurnThatFedNothingChangesNothing) {
  Turn({}, {1}, {4});
  session.BeginTurn(TurnKind::kAppend, true);
  session.EndTurn(absl::Seconds(7));
  EXPECT_THAT(session.TokensToFeed({4, 8}, {9}), ElementsAre(4, 8, 9));
}

TEST_F(SessionTest, AnAppendLeavesNoAnswerOpen) {
  Turn({}, {1}, {4});
  session.BeginTurn(TurnKind::kAppend, true);
  session.Advance({4, 5}, 6);
  session.EndTurn(absl::Seconds(7));
  EXPECT_THAT(session.TokensToFeed({4, 8}, {9}), ElementsAre(6, 9));
}

TEST_F(SessionTest, PhasesFollowTheTurn) {
  session.BeginTurn(TurnKind::kAnswer, true);
  EXPECT_EQ(session.phase(), SessionPhase::kQueued);
  session.Advance({4}, 5);
  EXPECT_EQ(session.phase(), SessionPhase::kPrefilling);
  session.Advance({5}, std::nullopt);
  session.Draw(6);
  EXPECT_EQ(session.phase(), SessionPhase::kDecoding);
  session.EndTurn(absl::Seconds(8));
  EXPECT_EQ(session.phase(), SessionPhase::kIdle);
  EXPECT_EQ(session.idle_since(), absl::Seconds(8));
}

TEST_F(SessionTest, IllegalTransitionsStopTheProcess) {
  EXPECT_DEATH(session.EndTurn(absl::Seconds(6)), "check failed");
  EXPECT_DEATH(session.Advance({1}, std::nullopt), "check failed");
  EXPECT_DEATH(
      {
        session.BeginTurn(TurnKind::kAnswer, true);
        session.BeginTurn(TurnKind::kAnswer, true);
      },
      "check failed");
}

}  // namespace
}  // namespace gma
