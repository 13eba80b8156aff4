// Exactly once: numbers of events, readers that go and come back, calls that are made again.
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::SizeIs;

class ResumeTest : public EngineTest {
 protected:
  static EngineOptions ResumeOptions() {
    EngineOptions options = DefaultOptions();
    options.resume_window = absl::Seconds(60);
    return options;
  }
  SessionId OpenOne(const EngineOptions& options = ResumeOptions()) {
    StartEngine(options);
    auto info = Open();
    EXPECT_TRUE(info.ok());
    return info->id;
  }
  Reader Resume(const SessionId& id, int64_t after, std::string owner = "alice") {
    auto stream =
        engine->Resume({.owner = std::move(owner), .session = id, .after = after}, nullptr);
    EXPECT_THAT(stream, IsOk());
    return Reader(*stream);
  }
  // Ticks until `reader` has `tokens` tokens.
  void ReadTokens(Reader& reader, size_t tokens) {
    for (int i = 0; i < 1000 && reader.token_count() < tokens; ++i) {
      engine->Tick();
      reader.Read();
    }
    ASSERT_GE(reader.token_count(), tokens);
  }
  void Leave(const Reader& reader) { engine->Cancel(reader.stream(), /*by_client=*/false); }
  AppendSpec Feed(const SessionId& id, std::vector<int32_t> tokens, std::string key = "") {
    AppendSpec spec{.owner = "alice", .session = id, .input = {}};
    spec.input.tokens = std::move(tokens);
    spec.request_key = std::move(key);
    return spec;
  }
  GenerateSpec Keyed(const SessionId& id, std::string key, std::optional<int64_t> after = {}) {
    GenerateSpec spec = On(id, Greedy({3, 4}, 20));
    spec.request_key = std::move(key);
    spec.after = after;
    return spec;
  }
  std::vector<int32_t> Expected(int64_t tokens = 20) {
    const GenerateSpec spec = Greedy({3, 4}, tokens);
    return AnswerOf({}, {3, 4}, spec.sampling, spec.stop).tokens;
  }
  static std::vector<int64_t> Numbers(int64_t from, int64_t to) {
    std::vector<int64_t> numbers(static_cast<size_t>(to - from + 1));
    std::iota(numbers.begin(), numbers.end(), from);
    return numbers;
  }
  // Both parts together are the whole answer and its end, each event once.
  void ExpectWhole(const Reader& first, const Reader& second) {
    std::vector<int32_t> tokens = first.answers.empty() ? std::vector<int32_t>() : first.tokens();
    if (!second.answers.empty()) {
      tokens.insert(tokens.end(), second.tokens().begin(), second.tokens().end());
    }
    EXPECT_EQ(tokens, Expected());
    std::vector<int64_t> numbers = first.sequences;
    numbers.insert(numbers.end(), second.sequences.begin(), second.sequences.end());
    EXPECT_EQ(numbers, Numbers(1, 22));
    EXPECT_THAT(second.status, Optional(IsOk()));
  }
};

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

TEST_F(ResumeTest, AGenerateWithTheSameKeyIsTheSameTurn) {
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

TEST_F(ResumeTest, AKeyedCallThatWaitsIsTakenOverToo) {
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

TEST_F(ResumeTest, ACallThatNamesAnotherLastEventIsRefused) {
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

TEST_F(ResumeTest, AnAppendWithTheSameKeyFeedsOnce) {
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

TEST_F(ResumeTest, AKeyedAppendRunsToItsEndWithoutItsCaller) {
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

TEST_F(ResumeTest, AKeyOfAnotherKindOfCallIsRefused) {
  const SessionId id = OpenOne();
  const auto append = Append(Feed(id, {3, 4}, "k"));
  RunToIdle();
  Reader reader = Generate(Keyed(id, "k"));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status,
              Optional(StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Append"))));
}

TEST_F(ResumeTest, ATurnThatFailedFailsAgainWithTheSameKey) {
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

TEST_F(ResumeTest, ARewindLeavesNoEventsToGoBackTo) {
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
