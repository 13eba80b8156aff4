// Readers that go and come back: numbers of events, and what is given again.
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/engine/resume_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

TEST_F(ResumeTest, EventsOfASessionAreNumberedThroughAllItsTurns) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 3)));
  RunToIdle({&first});
  EXPECT_EQ(first.sequences, Numbers(1, 5));  // Started, three tokens, Finished
  const auto append = Append(Feed(id, {5, 6, 7}));
  RunToIdle();
  EXPECT_EQ((**append)->last_sequence, 6);
  EXPECT_EQ((**append)->appended_tokens, 3);
  Reader second = Generate(On(id, Greedy({8}, 2)));
  RunToIdle({&second});
  EXPECT_EQ(second.sequences, Numbers(7, 10));
  EXPECT_EQ(Get(id)->last_sequence, 10);
}

TEST_F(ResumeTest, APrivateRequestCountsFromOneOverAllItsAnswers) {
  StartEngine(ResumeOptions());
  GenerateSpec spec = Greedy({3, 4}, 3);
  spec.n = 2;
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.sequences, Numbers(1, 9));
}

TEST_F(ResumeTest, ATurnWithoutAReaderStandsStillAndGoesOnWhereItsReaderWas) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  const int64_t steps = decoder->steps();
  RunToIdle();
  EXPECT_EQ(decoder->steps(), steps);
  EXPECT_TRUE(Get(id)->detached);
  EXPECT_TRUE(Get(id)->turn_active);
  EXPECT_EQ(metrics->turns_detached->Value(), 1);
  first.Read();
  EXPECT_THAT(first.status, Optional(StatusIs(absl::StatusCode::kCancelled, _)));

  clock.Advance(absl::Seconds(59));
  Reader second = Resume(id, first.sequences.back());
  RunToIdle({&second});
  ExpectWhole(first, second);
  EXPECT_FALSE(Get(id)->turn_active);
  EXPECT_EQ(metrics->turns_detached->Value(), 0);
  EXPECT_EQ(metrics->stream_resumes[ResumeLabel::kLive]->Value(), 1);
}

TEST_F(ResumeTest, EventsThatWereOnTheWayComeAgain) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  for (int i = 0; i < 6; ++i) engine->Tick();  // drawn and never read
  Leave(first);
  RunToIdle();
  Reader second = Resume(id, first.sequences.back());
  RunToIdle({&second});
  ExpectWhole(first, second);
}

TEST_F(ResumeTest, ADeadlineOfTheCallEndsTheStreamAndNotTheTurn) {
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({3, 4}, 20));
  spec.deadline = clock.Monotonic() + absl::Seconds(5);
  Reader first = Generate(spec);
  ReadTokens(first, 5);
  clock.Advance(absl::Seconds(5));
  RunToIdle({&first});
  EXPECT_THAT(first.status, Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, _)));
  Reader second = Resume(id, first.sequences.back());
  RunToIdle({&second});
  ExpectWhole(first, second);
}

TEST_F(ResumeTest, TheNewerReaderWinsAndTheOlderIsTold) {
  const SessionId id = OpenOne();
  Reader hangs = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(hangs, 5);
  Reader second = Resume(id, 1), third = Resume(id, 1);
  RunToIdle({&third});
  hangs.Read();
  second.Read();
  EXPECT_EQ(hangs.status, TakenOverError());
  EXPECT_EQ(second.status, TakenOverError());
  EXPECT_EQ(third.sequences, Numbers(2, 22));
  EXPECT_EQ(third.tokens(), Expected());
  // Cancels of those that lost it reach nothing.
  Reader fourth = Generate(On(id, Greedy({5}, 3)));
  engine->Tick();
  Leave(hangs);
  Leave(second);
  RunToIdle({&fourth});
  EXPECT_THAT(fourth.status, Optional(IsOk()));
}

TEST_F(ResumeTest, ATurnThatIsOverIsGivenAgain) {
  EngineOptions options = ResumeOptions();
  options.stream_capacity = 16;  // the history comes in parts, as the reader takes it
  const SessionId id = OpenOne(options);
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  RunToIdle({&first});
  for (int64_t after = 0; after <= 22; ++after) {
    Reader again = Resume(id, after);
    RunToIdle({&again});
    EXPECT_EQ(again.sequences, Numbers(after + 1, 22)) << after;
    EXPECT_THAT(again.status, Optional(IsOk())) << after;
    if (after <= 21) {
      EXPECT_EQ(again.finished.at(0).reason, FinishReason::kLength);
    }
  }
  EXPECT_EQ(metrics->stream_resumes[ResumeLabel::kHistory]->Value(), 22);
  EXPECT_EQ(metrics->stream_resumes[ResumeLabel::kNothing]->Value(), 1);
}

TEST_F(ResumeTest, AReaderOfTheHistoryIsSentAwayByANewerOneToo) {
  EngineOptions options = ResumeOptions();
  options.stream_capacity = 16;
  const SessionId id = OpenOne(options);
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  RunToIdle({&first});
  Reader slow = Resume(id, 0);
  engine->Tick();
  Reader fast = Resume(id, 0);
  RunToIdle({&fast});
  EXPECT_EQ(fast.sequences, Numbers(1, 22));
  slow.Read();
  EXPECT_EQ(slow.status, TakenOverError());
}

TEST_F(ResumeTest, ASlowReaderGetsThePastBeforeAnythingNewIsDrawn) {
  EngineOptions options = ResumeOptions();
  options.stream_capacity = 16;
  const SessionId id = OpenOne(options);
  Reader first = Generate(On(id, Greedy({3, 4}, 60)));
  ReadTokens(first, 40);
  Reader second = Resume(id, 0);
  const int64_t steps = decoder->steps();
  RunToIdle();  // takes nothing
  EXPECT_LE(decoder->steps(), steps + 1);
  second.Read();
  RunToIdle({&second});
  EXPECT_EQ(second.sequences, Numbers(1, 62));
  EXPECT_EQ(second.tokens(), Expected(60));
}

TEST_F(ResumeTest, CreditHoldsForWhatComesAgainToo) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 10);
  auto stream =
      engine->Resume({.owner = "alice", .session = id, .after = 0, .initial_credit = 12}, nullptr);
  Reader second(*stream);
  RunToIdle({&second});
  EXPECT_EQ(second.token_count(), 12u);
  engine->AddCredit(second.stream(), 100);
  RunToIdle({&second});
  EXPECT_EQ(second.tokens(), Expected());
}

TEST_F(ResumeTest, NumbersThatCannotBeHadAreRefusedByName) {
  EngineOptions options = ResumeOptions();
  options.resume_events = 10;
  const SessionId id = OpenOne(options);
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  RunToIdle({&first});
  const auto refused = [&](int64_t after, auto matcher) {
    Reader reader = Resume(id, after);
    RunToIdle({&reader});
    EXPECT_THAT(reader.status, Optional(matcher)) << after;
    EXPECT_THAT(reader.sequences, IsEmpty());
  };
  refused(23, StatusIs(absl::StatusCode::kOutOfRange,
                       AllOf(HasSubstr("after is 23"), HasSubstr("future"), HasSubstr("is 22"))));
  refused(11, StatusIs(absl::StatusCode::kOutOfRange,
                       AllOf(HasSubstr("after is 11"), HasSubstr("oldest event kept is 13"))));
  refused(0, StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("oldest event kept is 13")));
  Reader last = Resume(id, 12);
  RunToIdle({&last});
  EXPECT_EQ(last.sequences, Numbers(13, 22));
  EXPECT_EQ(metrics->stream_resumes[ResumeLabel::kFuture]->Value(), 1);
  EXPECT_EQ(metrics->stream_resumes[ResumeLabel::kGone]->Value(), 2);
}

TEST_F(ResumeTest, AStrangersSessionIsNotFound) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Reader stranger = Resume(id, 0, "mallory");
  RunToIdle({&first, &stranger});
  EXPECT_THAT(stranger.status, Optional(StatusIs(absl::StatusCode::kNotFound, _)));
  EXPECT_EQ(first.tokens(), Expected());
}

TEST_F(ResumeTest, ASessionThatIsNewHasNothingToGive) {
  const SessionId id = OpenOne();
  Reader reader = Resume(id, 0);
  RunToIdle({&reader});
  EXPECT_THAT(reader.status, Optional(IsOk()));
  const auto append = Append(Feed(id, {5, 6}));
  RunToIdle();
  Reader input = Resume(id, 0);
  RunToIdle({&input});
  ASSERT_THAT(input.appended, SizeIs(1));
  EXPECT_EQ(input.appended[0].context_tokens, 2);
  EXPECT_THAT(input.status, Optional(IsOk()));
}

TEST_F(ResumeTest, ATurnThatNobodyComesBackToEndsAsCancelled) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  clock.Advance(absl::Seconds(60));
  RunToIdle();
  EXPECT_FALSE(Get(id)->turn_active);
  Reader late = Resume(id, 6);
  RunToIdle({&late});
  ASSERT_THAT(late.finished, SizeIs(1));
  EXPECT_EQ(late.finished[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(late.status, Optional(IsOk()));
  // What was drawn is in the session.
  EXPECT_EQ(Get(id)->context_tokens, 2 + late.finished[0].usage.completion_tokens);
}

TEST_F(ResumeTest, WithoutAWindowATurnEndsWithItsReader) {
  const SessionId id = OpenOne(DefaultOptions());
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  EXPECT_FALSE(Get(id)->turn_active);
  Reader late = Resume(id, 6);
  RunToIdle({&late});
  EXPECT_THAT(late.status, Optional(StatusIs(absl::StatusCode::kCancelled, _)));
}

// One client on a bad network: it loses streams, some of which hang, and comes back by Resume or by
// the same call. What it saw in all is the undisturbed answer, each event once.
TEST_F(ResumeTest, WhateverHappensToStreamsEveryEventIsSeenOnce) {
  EngineOptions options = ResumeOptions();
  options.stream_capacity = 16;
  StartEngine(options);
  std::mt19937 random(17);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    const SessionId id = Open()->id;
    GenerateSpec spec = Keyed(id, "k", 0);
    spec.stop.max_tokens = static_cast<int64_t>(1 + random() % 80);
    Reader seen = Generate(spec);
    while (seen.finished.empty()) {
      ASSERT_FALSE(seen.status.has_value()) << seen.status->ToString();
      for (uint32_t ticks = random() % 6; ticks > 0; --ticks) engine->Tick();
      engine->CheckOwnership();
      if (random() % 2 == 0) seen.Read();
      if (!seen.finished.empty() || random() % 4 != 0) continue;
      if (random() % 2 == 0) Leave(seen);  // else the old stream hangs
      if (random() % 3 == 0) RunToIdle();
      spec.after = seen.sequences.empty() ? 0 : seen.sequences.back();
      // A call that was cut before it was heard began no turn: then there is none to resume.
      const bool by_key = seen.sequences.empty() || random() % 2 == 0;
      Reader next = by_key ? Generate(spec) : Resume(id, *spec.after);
      if (!by_key) engine->Tick();
      seen.GoOnWith(next.stream());
    }
    const auto count = static_cast<int64_t>(seen.token_count());
    EXPECT_EQ(count, spec.stop.max_tokens);
    EXPECT_EQ(seen.tokens(), Expected(count));
    EXPECT_EQ(seen.sequences, Numbers(1, count + 2));
    EXPECT_THAT(seen.finished, SizeIs(1));
    RunToIdle();
    EXPECT_EQ(Get(id)->context_tokens, count + 2);
    ASSERT_THAT(CloseSession(id), IsOk());
  }
}

TEST_F(ResumeTest, ANewTurnEndsOneThatIsDetached) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  const int64_t last = Get(id)->last_sequence;
  GenerateSpec wrong = On(id, Greedy({9}, 3));
  wrong.after = last - 1;
  Reader refused = Generate(wrong);
  RunToIdle({&refused});
  EXPECT_THAT(refused.status, Optional(StatusIs(absl::StatusCode::kAborted, _)));
  EXPECT_TRUE(Get(id)->detached);

  GenerateSpec spec = On(id, Greedy({9}, 3));
  spec.after = last;
  Reader second = Generate(spec);
  RunToIdle({&second});
  EXPECT_EQ(second.sequences, Numbers(last + 2, last + 6));
  std::vector<int32_t> tokens = {3, 4};
  const std::vector<int32_t> answer = Expected();
  const auto drawn = static_cast<ptrdiff_t>(last - 1);  // Started is no token
  tokens.insert(tokens.end(), answer.begin(), answer.begin() + drawn);
  tokens.push_back(9);
  EXPECT_EQ(second.tokens(), AnswerOf({}, tokens, spec.sampling, spec.stop).tokens);
}

TEST_F(ResumeTest, ATurnThatWaitsDoesNotWaitForAReaderThatIsGone) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  GenerateSpec spec = On(id, Greedy({9}, 3));
  spec.wait_if_busy = true;
  Reader second = Generate(spec);
  engine->Tick();
  Leave(first);
  RunToIdle({&second});
  EXPECT_THAT(second.status, Optional(IsOk()));
  EXPECT_EQ(second.token_count(), 3u);
}

TEST_F(ResumeTest, WhatIsNoTurnIsRefusedWhileOneIsDetached) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  std::optional<absl::StatusOr<SessionSnapshotInfo>> fork;
  engine->Fork("alice", id, [&](auto info) { fork = std::move(info); });
  RunToIdle();
  EXPECT_THAT(fork, Optional(StatusIs(absl::StatusCode::kFailedPrecondition,
                                      HasSubstr("whose reader is gone"))));
}

TEST_F(ResumeTest, CloseEndsADetachedTurn) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  EXPECT_THAT(CloseSession(id), IsOk());
  RunToIdle();
  Reader late = Resume(id, 6);
  RunToIdle({&late});
  EXPECT_THAT(late.status, Optional(StatusIs(absl::StatusCode::kNotFound, _)));
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(ResumeTest, ADrainDoesNotWaitForReadersThatAreGone) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  Leave(first);
  RunToIdle();
  EXPECT_FALSE(engine->Drained());
  engine->BeginDrain();
  RunToIdle();
  EXPECT_TRUE(engine->Drained());
}

}  // namespace
}  // namespace gma::testing
