// Sessions: what goes on from where, one turn at a time, endings, expiry.
#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine/retry_hint.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

class SessionTest : public EngineTest {
 protected:
  // Starts the engine and opens a session.
  SessionId OpenOne(const EngineOptions& options = DefaultOptions()) {
    StartEngine(options);
    auto info = Open();
    EXPECT_TRUE(info.ok());
    return info->id;
  }
  AppendSpec Feed(const SessionId& id, std::vector<int32_t> tokens) {
    AppendSpec spec{.owner = "alice", .session = id, .input = {}};
    spec.input.tokens = std::move(tokens);
    return spec;
  }
};

TEST_F(SessionTest, ASecondTurnGoesOnWhereTheFirstEnded) {
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({3, 4}, 6));
  Reader first = Generate(spec);
  RunToIdle({&first});
  const ExpectedAnswer a = AnswerOf({}, {3, 4}, spec.sampling, spec.stop);
  EXPECT_EQ(first.tokens(), a.tokens);
  EXPECT_EQ(Get(id)->context_tokens, 8);

  spec.input.tokens = {10, 11};
  Reader second = Generate(spec);
  RunToIdle({&second});
  // The pending token of the first answer comes first.
  const ExpectedAnswer b = AnswerOf(a.state, {a.tokens.back(), 10, 11}, spec.sampling, spec.stop);
  EXPECT_EQ(second.tokens(), b.tokens);
  EXPECT_EQ(second.finished.at(0).usage.cached_tokens, 7);
  EXPECT_EQ(second.finished.at(0).usage.prompt_tokens, 3);
}

TEST_F(SessionTest, TwoAnswersInARowAreOneLongAnswer) {
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({3, 4}, 6));
  spec.sampling.temperature = 0.9;
  spec.sampling.seed = 11;
  Reader first = Generate(spec);
  RunToIdle({&first});
  spec.input = {};
  Reader second = Generate(spec);
  RunToIdle({&second});
  std::vector<int32_t> both = first.tokens();
  both.insert(both.end(), second.tokens().begin(), second.tokens().end());
  StopParams twice = spec.stop;
  twice.max_tokens = 12;
  EXPECT_EQ(both, AnswerOf({}, {3, 4}, spec.sampling, twice).tokens);
}

TEST_F(SessionTest, AppendFeedsAllButTheLastTokenWhichStaysPending) {
  const SessionId id = OpenOne();
  auto one = Append(Feed(id, {5}));
  RunToIdle();
  ASSERT_TRUE(one->has_value());
  EXPECT_EQ((**one)->context_tokens, 1);
  EXPECT_EQ(decoder->tokens_fed(), 0);
  auto more = Append(Feed(id, {6, 7, 8}));
  RunToIdle();
  EXPECT_EQ((**more)->context_tokens, 4);
  EXPECT_EQ((**more)->phase, SessionPhase::kIdle);
  EXPECT_EQ(decoder->tokens_fed(), 3);
  GenerateSpec spec = On(id, Greedy({}, 4));
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, {5, 6, 7, 8}, spec.sampling, spec.stop).tokens);
}

TEST_F(SessionTest, AnAnswerIsClosedBeforeTheNextMessageWithoutWhatItHasDrawnItself) {
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({3, 4}, 5));
  Reader first = Generate(spec);
  RunToIdle({&first});
  const ExpectedAnswer a = AnswerOf({}, {3, 4}, spec.sampling, spec.stop);
  // The closing sequence begins with the last two tokens of the answer: only 50 is missing.
  spec.input.close_tokens = {a.tokens[3], a.tokens[4], 50};
  spec.input.tokens = {9};
  Reader second = Generate(spec);
  RunToIdle({&second});
  const ExpectedAnswer b = AnswerOf(a.state, {a.tokens[4], 50, 9}, spec.sampling, spec.stop);
  EXPECT_EQ(second.tokens(), b.tokens);
  // This one was not drawn at all.
  spec.input.close_tokens = {60, 59};
  spec.input.tokens = {9};
  ASSERT_NE(b.tokens.back(), 60);
  Reader third = Generate(spec);
  RunToIdle({&third});
  EXPECT_EQ(third.tokens(),
            AnswerOf(b.state, {b.tokens[4], 60, 59, 9}, spec.sampling, spec.stop).tokens);
}

TEST_F(SessionTest, AfterAnAppendThereIsNothingToClose) {
  const SessionId id = OpenOne();
  Append(Feed(id, {5, 6}));
  RunToIdle();
  GenerateSpec spec = On(id, Greedy({9}, 4));
  spec.input.close_tokens = {60, 59};
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, {5, 6, 9}, spec.sampling, spec.stop).tokens);
}

TEST_F(SessionTest, ACancelledPromptLeavesItsNextTokenPending) {
  const SessionId id = OpenOne();
  std::vector<int32_t> prompt(40, 7);
  prompt[8] = 13;
  Reader reader = Generate(On(id, Greedy(prompt, 5)));
  engine->Tick();  // 8 of 40 tokens
  engine->Cancel(reader.stream(), /*by_client=*/true);
  RunToIdle({&reader});
  EXPECT_EQ(reader.finished.at(0).usage.prompt_tokens, 8);
  EXPECT_EQ(Get(id)->context_tokens, 9);
  GenerateSpec spec = On(id, Greedy({}, 4));
  Reader next = Generate(spec);
  RunToIdle({&next});
  const std::vector<int32_t> fed(prompt.begin(), prompt.begin() + 9);
  EXPECT_EQ(next.tokens(), AnswerOf({}, fed, spec.sampling, spec.stop).tokens);
}

TEST_F(SessionTest, ATurnThatNeverRanLeavesTheSessionAsItWas) {
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({1, 2}, 5)));
  engine->Cancel(reader.stream(), /*by_client=*/false);
  RunToIdle({&reader});
  EXPECT_EQ(Get(id)->context_tokens, 0);
  Reader nothing = Generate(On(id, Greedy({}, 5)));
  RunToIdle({&nothing});
  EXPECT_THAT(nothing.status, Optional(StatusIs(absl::StatusCode::kInvalidArgument,
                                                HasSubstr("nothing to go on from"))));
  EXPECT_EQ(Get(id)->phase, SessionPhase::kIdle);
}

TEST_F(SessionTest, ASecondTurnIsRefusedOrWaits) {
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({3, 4}, 6));
  Reader first = Generate(spec);
  engine->Tick();
  Reader refused = Generate(spec);
  engine->Tick();
  refused.Read();
  EXPECT_THAT(refused.status,
              Optional(StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("active turn"))));
  spec.wait_if_busy = true;
  spec.input.tokens = {10};
  Reader second = Generate(spec);
  AppendSpec append = Feed(id, {11, 12});
  append.wait_if_busy = true;
  auto third = Append(append);
  RunToIdle({&first, &second});
  const ExpectedAnswer a = AnswerOf({}, {3, 4}, spec.sampling, spec.stop);
  EXPECT_EQ(first.tokens(), a.tokens);
  EXPECT_EQ(second.tokens(),
            AnswerOf(a.state, {a.tokens.back(), 10}, spec.sampling, spec.stop).tokens);
  ASSERT_TRUE(third->has_value());
  EXPECT_EQ((**third)->context_tokens, 2 + 6 + 1 + 6 + 2);
}

TEST_F(SessionTest, WaitingTurnsEndByDeadlineAndCancel) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  GenerateSpec spec = On(id, Greedy({5}, 1));
  spec.wait_if_busy = true;
  Reader cancelled = Generate(spec);
  spec.deadline = clock.Monotonic() + absl::Seconds(1);
  Reader late = Generate(spec);
  engine->Tick();
  engine->Cancel(cancelled.stream(), /*by_client=*/true);
  clock.Advance(absl::Seconds(1));
  engine->Tick();
  cancelled.Read();
  late.Read();
  EXPECT_THAT(cancelled.status, Optional(IsOk()));
  EXPECT_EQ(cancelled.finished.at(0).reason, FinishReason::kCancelled);
  EXPECT_THAT(late.status, Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, _)));
  RunToIdle({&first});
  EXPECT_EQ(first.token_count(), 20u);
  EXPECT_EQ(Get(id)->context_tokens, 22);
}

TEST_F(SessionTest, CloseOfABusySessionEndsItsTurnsAndGivesTheRowBack) {
  const SessionId id = OpenOne();
  Reader active = Generate(On(id, Greedy({3, 4}, 100)));
  GenerateSpec spec = On(id, Greedy({5}, 1));
  spec.wait_if_busy = true;
  Reader waiting = Generate(spec);
  engine->Tick();
  const auto closed = CloseSession(id);
  ASSERT_THAT(closed, IsOk());
  EXPECT_EQ(closed->phase, SessionPhase::kDecoding);
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
  active.Read();
  waiting.Read();
  EXPECT_THAT(active.status, Optional(StatusIs(absl::StatusCode::kCancelled, HasSubstr("closed"))));
  EXPECT_THAT(waiting.status, Optional(StatusIs(absl::StatusCode::kCancelled, _)));
  EXPECT_THAT(Get(id), StatusIs(absl::StatusCode::kNotFound, HasSubstr("was closed")));
  RunToIdle();
}

TEST_F(SessionTest, AnotherOwnersSessionIsUnknown) {
  const SessionId id = OpenOne();
  const absl::Status foreign = Get(id, "bob").status();
  EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
  EXPECT_THAT(CloseSession(id, "bob"), StatusIs(absl::StatusCode::kNotFound, _));
  GenerateSpec spec = On(id, Greedy({1}, 1));
  spec.owner = "bob";
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.status, foreign);
}

TEST_F(SessionTest, AnIdleSessionExpiresAndSaysSo) {
  StartEngine();
  const SessionId id = Open(absl::Seconds(10))->id;
  clock.Advance(absl::Seconds(9));
  Reader reader = Generate(On(id, Greedy({1}, 2)));
  RunToIdle({&reader});
  clock.Advance(absl::Seconds(9));
  EXPECT_THAT(Get(id), IsOk());  // a turn starts the idle time anew, looking does not
  clock.Advance(absl::Seconds(1));
  engine->Tick();
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
  EXPECT_EQ(metrics->session_evictions[EvictionLabel::kPoolExpired]->Value(), 1);
  clock.Advance(absl::Seconds(5));
  EXPECT_THAT(Get(id), StatusIs(absl::StatusCode::kNotFound,
                                HasSubstr("expired 5 s ago: it was idle for 10 s")));
}

TEST_F(SessionTest, ABusySessionDoesNotExpire) {
  StartEngine();
  const SessionId id = Open(absl::Seconds(10))->id;
  GenerateSpec spec = On(id, Greedy({1, 2}, 5));
  spec.initial_credit = 1;
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  clock.Advance(absl::Hours(1));
  RunToIdle({&reader});
  EXPECT_THAT(Get(id), IsOk());
  engine->AddCredit(reader.stream(), 10);
  RunToIdle({&reader});
  EXPECT_EQ(reader.token_count(), 5u);
}

TEST_F(SessionTest, AFailedStepEndsTheSessionAndLaterUseSaysSo) {
  const SessionId id = OpenOne();
  Reader active = Generate(On(id, Greedy({3, 4}, 100)));
  GenerateSpec spec = On(id, Greedy({5}, 1));
  spec.wait_if_busy = true;
  Reader waiting = Generate(spec);
  engine->Tick();
  decoder->FailNextStep();
  RunToIdle({&active, &waiting});
  EXPECT_THAT(active.status, Optional(StatusIs(absl::StatusCode::kDataLoss, _)));
  EXPECT_THAT(waiting.status, Optional(StatusIs(absl::StatusCode::kDataLoss, _)));
  EXPECT_THAT(Get(id), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("failed step")));
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(SessionTest, AnIdleSessionSurvivesOthersFailedStep) {
  const SessionId id = OpenOne();
  Append(Feed(id, {5, 6, 7}));
  RunToIdle();
  Reader other = Generate(Greedy({3, 4}, 100));
  engine->Tick();
  decoder->FailNextStep();
  RunToIdle({&other});
  GenerateSpec spec = On(id, Greedy({}, 4));
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, {5, 6, 7}, spec.sampling, spec.stop).tokens);
}

TEST_F(SessionTest, NonFiniteLogitsLeaveTheSessionOpen) {
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({3, 4}, 100)));
  engine->Tick();
  decoder->NanForRow(decoder->last_rows().at(0));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kInternal, _)));
  EXPECT_EQ(Get(id)->context_tokens, 3);  // the prompt and the first token
}

TEST_F(SessionTest, OpenIsRefusedWithARetryHintWhenNoRowIsFree) {
  EngineOptions options = DefaultOptions();
  options.max_sessions = 1;
  options.park_memory_bytes = 0;  // nothing may be parked
  OpenOne(options);
  const auto refused = Open(absl::ZeroDuration(), "bob");
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1 state rows")));
  EXPECT_THAT(RetryAfterMs(refused.status()), Optional(Gt(0)));
  EXPECT_EQ(metrics->admission_rejected[RejectReasonLabel::kNoRow]->Value(), 1);
}

TEST_F(SessionTest, ListGivesTheOwnersSessionsInPages) {
  StartEngine();
  std::vector<SessionId> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(Open()->id);
  ASSERT_THAT(Open(absl::ZeroDuration(), "bob"), IsOk());
  std::sort(ids.begin(), ids.end());
  std::vector<SessionId> listed;
  std::optional<SessionId> after;
  for (size_t page : {2, 2, 1, 0}) {
    std::vector<SessionSnapshotInfo> infos;
    engine->List("alice", after, 2, [&](auto answer) { infos = *std::move(answer); });
    engine->Tick();
    EXPECT_THAT(infos, SizeIs(page));
    for (const auto& info : infos) listed.push_back(info.id);
    if (!infos.empty()) after = infos.back().id;
  }
  EXPECT_EQ(listed, ids);
}

TEST_F(SessionTest, AFreshRowHoldsNothingOfItsLastTenant) {
  EngineOptions options = DefaultOptions();
  options.max_sessions = 1;
  const SessionId id = OpenOne(options);
  Reader first = Generate(On(id, Greedy({3, 4}, 10)));
  RunToIdle({&first});
  ASSERT_THAT(CloseSession(id), IsOk());
  GenerateSpec spec = Greedy({8}, 10);
  Reader second = Generate(spec);
  RunToIdle({&second});
  EXPECT_EQ(second.tokens(), AnswerOf({}, {8}, spec.sampling, spec.stop).tokens);
}

}  // namespace
}  // namespace gma::testing
