// Calls that are made again: keys of turns, and the last event that a caller has seen.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/engine/resume_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Optional;

using OnceTest = ResumeTest;

TEST_F(OnceTest, AGenerateWithTheSameKeyIsTheSameTurn) {
  const SessionId id = OpenOne();
  Reader first = Generate(Keyed(id, "k1", 0));
  ReadTokens(first, 5);
  // During the turn, while the old stream hangs; from where the client is, and from the beginning.
  Reader second = Generate(Keyed(id, "k1", first.sequences.back()));
  ReadTokens(second, 3);
  EXPECT_EQ(second.sequences.front(), first.sequences.back() + 1);
  Reader third = Generate(Keyed(id, "k1"));
  RunToIdle({&third});
  EXPECT_EQ(third.sequences, Numbers(1, 22));
  EXPECT_EQ(third.tokens(), Expected());
  // After it, with an `after` that has long passed.
  Reader fourth = Generate(Keyed(id, "k1", 10));
  RunToIdle({&fourth});
  EXPECT_EQ(fourth.sequences, Numbers(11, 22));
  EXPECT_EQ(Get(id)->context_tokens, 22);
  // Another key is another turn.
  Reader fifth = Generate(Keyed(id, "k2", 22));
  RunToIdle({&fifth});
  EXPECT_EQ(fifth.sequences.front(), 23);
}

TEST_F(OnceTest, InputForATurnThatNeverBeganIsNotFedInItsPlace) {
  const SessionId id = OpenOne();
  for (const bool waits : {false, true}) {
    Reader active = Generate(On(id, Greedy({3, 4}, 5)));
    if (waits) engine->Tick();
    if (!waits) RunToIdle({&active});
    GenerateSpec spec = On(id, Greedy({9}, 3));
    spec.wait_if_busy = true;
    Reader reader = Generate(std::move(spec));
    AppendSpec input{.owner = "alice", .session = id, .input = {.tokens = {5}}};
    input.wait_if_busy = true;
    input.turn = reader.stream();
    input.abandoned = [turn = reader.stream()] { return turn->cancelled(); };
    std::optional<absl::Status> appended;
    engine->Append(std::move(input), [&](const auto& info) { appended = info.status(); });
    if (waits) engine->Tick();
    engine->Cancel(reader.stream(), /*by_client=*/false);
    RunToIdle({&active});
    EXPECT_THAT(appended, Optional(StatusIs(absl::StatusCode::kCancelled, HasSubstr("gone"))));
    EXPECT_THAT(active.status, Optional(IsOk()));
    EXPECT_EQ(Get(id)->last_sequence, active.sequences.back());
  }
}

TEST_F(OnceTest, AnAppendThatWaitsIsFedForWhoCalledItAgain) {
  const SessionId id = OpenOne();
  Reader active = Generate(On(id, Greedy({3, 4}, 5)));
  engine->Tick();
  bool gone = false;
  std::vector<absl::Status> answers;
  for (const bool first : {true, false}) {
    AppendSpec spec{.owner = "alice", .session = id, .input = {.tokens = {5}}};
    spec.wait_if_busy = true;
    spec.request_key = "k";
    spec.abandoned = [&gone, first] { return first && gone; };
    engine->Append(std::move(spec), [&](const auto& info) { answers.push_back(info.status()); });
    engine->Tick();
    gone = true;
  }
  RunToIdle({&active});
  EXPECT_THAT(answers, Each(IsOk()));
  EXPECT_EQ(answers.size(), 2);
}

TEST_F(OnceTest, AKeyedCallThatWaitsIsTakenOverToo) {
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 20)));
  ReadTokens(first, 5);
  GenerateSpec waits = On(id, Greedy({9}, 3));
  waits.wait_if_busy = true;
  waits.request_key = "k";
  Reader second = Generate(waits);
  engine->Tick();
  Reader third = Generate(waits);
  RunToIdle({&first, &third});
  second.Read();
  EXPECT_EQ(second.status, TakenOverError());
  EXPECT_EQ(third.sequences, Numbers(23, 27));
  EXPECT_EQ(Get(id)->last_sequence, 27);
}

TEST_F(OnceTest, ACallThatNamesAnotherLastEventIsRefused) {
  const SessionId id = OpenOne();
  Reader first = Generate(Keyed(id, "k1", 0));
  RunToIdle({&first});
  Reader older = Generate(Keyed(id, "k2", 7)), newer = Generate(Keyed(id, "k2", 40));
  RunToIdle({&older, &newer});
  EXPECT_THAT(older.status, Optional(StatusIs(absl::StatusCode::kAborted,
                                              AllOf(HasSubstr("after is 7"), HasSubstr("22")))));
  EXPECT_THAT(newer.status,
              Optional(StatusIs(absl::StatusCode::kDataLoss,
                                AllOf(HasSubstr("older than what the client has acknowledged"),
                                      HasSubstr("40"), HasSubstr("22")))));
  EXPECT_EQ(Get(id)->last_sequence, 22);
}

TEST_F(OnceTest, AnAppendWithTheSameKeyFeedsOnce) {
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens(30, 7);
  const auto first = Append(Feed(id, tokens, "a"));
  engine->Tick();
  const auto during = Append(Feed(id, tokens, "a"));
  RunToIdle();
  const auto after = Append(Feed(id, tokens, "a"));
  RunToIdle();
  for (const auto& answer : {first, during, after}) {
    ASSERT_TRUE(answer->has_value());
    ASSERT_THAT(**answer, IsOk());
    EXPECT_EQ((**answer)->context_tokens, 30);
    EXPECT_EQ((**answer)->last_sequence, 1);
    EXPECT_EQ((**answer)->appended_tokens, 30);
  }
  const auto other = Append(Feed(id, tokens, "b"));
  RunToIdle();
  EXPECT_EQ((**other)->context_tokens, 60);
}

TEST_F(OnceTest, AKeyedAppendRunsToItsEndWithoutItsCaller) {
  const SessionId id = OpenOne();
  AppendSpec spec = Feed(id, std::vector<int32_t>(30, 7), "a");
  spec.deadline = clock.Monotonic() + absl::Seconds(1);
  const auto first = Append(spec);
  engine->Tick();
  clock.Advance(absl::Seconds(2));
  RunToIdle();
  EXPECT_THAT(**first, StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  EXPECT_EQ(Get(id)->context_tokens, 30);
  spec.deadline = absl::InfiniteDuration();
  const auto again = Append(spec);
  RunToIdle();
  EXPECT_EQ((**again)->context_tokens, 30);
}

TEST_F(OnceTest, AKeyOfAnotherKindOfCallIsRefused) {
  const SessionId id = OpenOne();
  const auto append = Append(Feed(id, {3, 4}, "k"));
  RunToIdle();
  Reader reader = Generate(Keyed(id, "k"));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status,
              Optional(StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Append"))));
}

TEST_F(OnceTest, ATurnThatFailedFailsAgainWithTheSameKey) {
  const SessionId id = OpenOne();
  decoder->NanForRow(0);
  Reader first = Generate(Keyed(id, "k1", 0));
  RunToIdle({&first});
  ASSERT_TRUE(first.status.has_value());
  EXPECT_FALSE(first.status->ok());
  Reader second = Generate(Keyed(id, "k1", 0));
  RunToIdle({&second});
  EXPECT_EQ(second.status, first.status);
}

TEST_F(OnceTest, ARewindLeavesNoEventsToGoBackTo) {
  EngineOptions options = ResumeOptions();
  options.past = {.checkpoint_bytes = 1 << 16, .checkpoint_tokens = 1000, .rewind_tokens = 1000};
  const SessionId id = OpenOne(options);
  Reader first = Generate(Keyed(id, "k1", 0));
  RunToIdle({&first});
  std::optional<absl::StatusOr<SessionSnapshotInfo>> rewound;
  engine->Rewind({.owner = "alice", .session = id, .target = int64_t{2}},
                 [&](auto info) { rewound = std::move(info); });
  RunToIdle();
  ASSERT_THAT(rewound, Optional(IsOk()));
  EXPECT_EQ((*rewound)->last_sequence, 22);
  Reader nothing = Resume(id, 22), gone = Resume(id, 3);
  RunToIdle({&nothing, &gone});
  EXPECT_THAT(nothing.status, Optional(IsOk()));
  EXPECT_THAT(gone.status, Optional(StatusIs(absl::StatusCode::kOutOfRange, _)));
  // The key was that of the turn before.
  Reader again = Generate(Keyed(id, "k1", 22));
  RunToIdle({&again});
  EXPECT_EQ(again.sequences.front(), 23);
}

}  // namespace
}  // namespace gma::testing
