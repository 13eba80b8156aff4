// Fork, checkpoint, rewind: what a session does next must follow from the tokens it is said to
// hold, whatever way it came there.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine/retry_hint.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

class PastTest : public EngineTest {
 protected:
  static constexpr int64_t kRows = 4;  // checkpoints that fit

  EngineOptions PastOptions() {
    EngineOptions options = DefaultOptions();
    options.max_batch_rows = 8;
    options.past = {.checkpoint_bytes = kRows * FakeDecoder(1, 1).state_layout().row_bytes(),
                    .checkpoint_tokens = 1000,
                    .rewind_tokens = 10'000};
    return options;
  }
  SessionId OpenOne() {
    auto info = Open();
    EXPECT_TRUE(info.ok());
    return info->id;
  }
  // The answer of a session call, after as many ticks as it takes.
  template <typename T, typename Call>
  absl::StatusOr<T> Ask(Call call) {
    std::optional<absl::StatusOr<T>> answer;
    call([&](absl::StatusOr<T> result) { answer = std::move(result); });
    for (int i = 0; i < 1000 && !answer; ++i) engine->Tick();
    engine->CheckOwnership();
    EXPECT_TRUE(answer.has_value());
    return *std::move(answer);
  }
  absl::StatusOr<SessionSnapshotInfo> Fork(const SessionId& id, std::string owner = "alice") {
    return Ask<SessionSnapshotInfo>([&](auto done) { engine->Fork(owner, id, std::move(done)); });
  }
  absl::StatusOr<CheckpointInfo> Checkpoint(const SessionId& id, std::string name = "",
                                            std::string owner = "alice") {
    return Ask<CheckpointInfo>(
        [&](auto done) { engine->Checkpoint(owner, id, name, std::move(done)); });
  }
  absl::StatusOr<std::vector<CheckpointInfo>> List(const SessionId& id,
                                                   std::string owner = "alice") {
    return Ask<std::vector<CheckpointInfo>>(
        [&](auto done) { engine->ListCheckpoints(owner, id, std::move(done)); });
  }
  absl::StatusOr<SessionSnapshotInfo> Rewind(const SessionId& id, RewindTarget target,
                                             std::string owner = "alice") {
    return Ask<SessionSnapshotInfo>([&](auto done) {
      engine->Rewind({.owner = owner, .session = id, .target = std::move(target)}, std::move(done));
    });
  }
  // Feeds `prompt` and draws `count` tokens; appends both to `tokens`, all that the session holds.
  void Turn(const SessionId& id, const std::vector<int32_t>& prompt, int64_t count,
            std::vector<int32_t>& tokens) {
    Reader reader = Generate(On(id, Greedy(prompt, count)));
    RunToIdle({&reader});
    tokens.insert(tokens.end(), prompt.begin(), prompt.end());
    tokens.insert(tokens.end(), reader.tokens().begin(), reader.tokens().end());
  }
  // What the session says next is what one that read `tokens` alone would say.
  void ExpectHolds(const SessionId& id, std::vector<int32_t> tokens) {
    EXPECT_EQ(Get(id)->context_tokens, static_cast<int64_t>(tokens.size()));
    tokens.push_back(17);
    GenerateSpec spec = On(id, Greedy({17}, 5));
    Reader reader = Generate(spec);
    RunToIdle({&reader});
    EXPECT_EQ(reader.tokens(), AnswerOf({}, tokens, spec.sampling, spec.stop).tokens);
  }
  static std::vector<int32_t> First(const std::vector<int32_t>& tokens, int64_t count) {
    return {tokens.begin(), tokens.begin() + count};
  }
};

TEST_F(PastTest, AForkGoesOnFromTheSameStateAndEachGoesItsOwnWay) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, {3, 4, 5}, 6, tokens);
  const auto fork = Fork(id);
  ASSERT_THAT(fork, IsOk());
  EXPECT_NE(fork->id, id);
  EXPECT_EQ(fork->context_tokens, 9);
  std::vector<int32_t> other = tokens;
  Turn(fork->id, {8}, 4, other);
  Turn(id, {9}, 4, tokens);
  ExpectHolds(fork->id, other);
  ExpectHolds(id, tokens);
  // The fork goes back on its own, beyond the fork too.
  ASSERT_THAT(Rewind(fork->id, int64_t{5}), IsOk());
  ExpectHolds(fork->id, First(other, 5));
  EXPECT_EQ(metrics->session_forks->Value(), 1);
}

TEST_F(PastTest, ForksCostARowEachAndAreRefusedByNameWhenThereIsNone) {
  EngineOptions options = PastOptions();
  options.max_sessions = 65;
  options.max_sessions_per_owner = 65;
  StartEngine(options);
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, {3, 4, 5}, 6, tokens);
  const double saved = metrics->session_checkpoints->Value();
  std::vector<SessionId> forks;
  for (int i = 0; i < 64; ++i) {
    const auto fork = Fork(id);
    ASSERT_THAT(fork, IsOk());
    forks.push_back(fork->id);
  }
  EXPECT_EQ(engine->GetStatus().rows_used, 65);
  EXPECT_EQ(metrics->session_checkpoints->Value(), saved);  // shared, not copied
  const auto refused = Fork(id);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("65")));
  for (const SessionId& fork : forks) ASSERT_THAT(CloseSession(fork), IsOk());
  ExpectHolds(id, tokens);
  ASSERT_THAT(CloseSession(id), IsOk());
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
  EXPECT_EQ(metrics->session_checkpoint_bytes->Value(), 0);
}

TEST_F(PastTest, TheQuotaOfAnOwnerCountsForks) {
  EngineOptions options = PastOptions();
  options.max_sessions_per_owner = 2;
  StartEngine(options);
  const SessionId id = OpenOne();
  EXPECT_THAT(Fork(id), IsOk());
  EXPECT_THAT(Fork(id), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 2")));
}

TEST_F(PastTest, EveryPositionOfAConversationCanBeReached) {
  for (const int64_t every : {0, 1, 7, 1000}) {
    EngineOptions options = PastOptions();
    options.past.checkpoint_tokens = every;
    StartEngine(options);
    const SessionId id = OpenOne();
    std::vector<int32_t> tokens;
    Turn(id, {3, 4, 5}, 6, tokens);
    Turn(id, {6}, 3, tokens);
    Turn(id, {}, 4, tokens);
    Turn(id, std::vector<int32_t>(20, 9), 5, tokens);
    for (int64_t position = static_cast<int64_t>(tokens.size()); position >= 0; --position) {
      // From a fork, so that the session keeps its past.
      const auto fork = Fork(id);
      ASSERT_THAT(fork, IsOk());
      EXPECT_EQ(fork->oldest_rewind, 0);
      ASSERT_THAT(Rewind(fork->id, position), IsOk()) << position;
      ExpectHolds(fork->id, First(tokens, position));
      ASSERT_THAT(CloseSession(fork->id), IsOk());
    }
    ExpectHolds(id, tokens);
  }
}

TEST_F(PastTest, ARewoundSessionClosesAnAnswerAsItStoodThen) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, {3, 4}, 6, tokens);
  const auto append = Append({.owner = "alice", .session = id, .input = {{10, 11}, {}, {}}});
  RunToIdle();
  // In the middle of the answer: it is open, and has drawn the first of what closes it.
  ASSERT_THAT(Rewind(id, int64_t{6}), IsOk());
  GenerateSpec spec = On(id, Greedy({9}, 4));
  spec.input.close_tokens = {tokens[5], 50};
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  std::vector<int32_t> expected = First(tokens, 6);
  expected.insert(expected.end(), {50, 9});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, expected, spec.sampling, spec.stop).tokens);
}

TEST_F(PastTest, TheChatOpensAgainWhereNothingWasRead) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, Greedy({9}, 4));
  spec.input.opening_tokens = {40, 41};
  Reader first = Generate(spec);
  RunToIdle({&first});
  EXPECT_EQ(first.tokens(), AnswerOf({}, {40, 41, 9}, spec.sampling, spec.stop).tokens);
  EXPECT_EQ(Get(id)->context_tokens, 7);
  ASSERT_THAT(Rewind(id, int64_t{0}), IsOk());
  Reader again = Generate(spec);
  RunToIdle({&again});
  EXPECT_EQ(again.tokens(), first.tokens());
  Reader later = Generate(spec);  // not opened twice
  RunToIdle({&later});
  EXPECT_EQ(Get(id)->context_tokens, 12);
}

TEST_F(PastTest, NamedCheckpointsStayWhicheverWayTheSessionGoes) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, {3, 4, 5}, 6, tokens);
  const auto early = Checkpoint(id, "early");
  ASSERT_THAT(early, IsOk());
  EXPECT_EQ(early->context_tokens, 9);
  Turn(id, {6, 7}, 5, tokens);
  ASSERT_THAT(Checkpoint(id, "late"), IsOk());
  const std::vector<int32_t> late = tokens;
  // Another way, which shares its first 4 tokens alone.
  ASSERT_THAT(Rewind(id, int64_t{4}), IsOk());
  std::vector<int32_t> other = First(tokens, 4);
  Turn(id, {30, 31}, 20, other);
  ASSERT_THAT(Rewind(id, std::string("late")), IsOk());
  EXPECT_EQ(Get(id)->oldest_rewind, 16);  // what it read before is not known any more
  EXPECT_THAT(Rewind(id, int64_t{12}),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("that can be reached is 16")));
  tokens = late;
  Turn(id, {8}, 7, tokens);
  ASSERT_THAT(Rewind(id, int64_t{19}), IsOk());
  ExpectHolds(id, First(tokens, 19));
  ASSERT_THAT(Rewind(id, std::string("early")), IsOk());
  ExpectHolds(id, First(late, 9));
  ASSERT_THAT(Rewind(id, std::string("late")), IsOk());
  ExpectHolds(id, late);
  EXPECT_THAT(Rewind(id, std::string("never")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"never\"")));
}

TEST_F(PastTest, TheRingIsBoundedAndTheOldestAutomaticOnesGoFirst) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  for (int32_t i = 1; i <= 6; ++i) Turn(id, {i}, 2, tokens);
  auto listed = List(id);
  ASSERT_THAT(listed, IsOk());
  ASSERT_EQ(listed->size(), 4u);  // of six turns
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE((*listed)[i].automatic);
    EXPECT_EQ((*listed)[i].context_tokens, static_cast<int64_t>(3 * (i + 3)));
  }
  EXPECT_EQ(Checkpoint(id)->name, "1");
  EXPECT_EQ(Checkpoint(id)->name, "2");
  for (const char* name : {"a", "b", "c"}) ASSERT_THAT(Checkpoint(id, name), IsOk());
  ASSERT_THAT(Checkpoint(id, "b"), IsOk());  // in its own place
  listed = List(id);
  std::vector<std::string> names;
  for (const CheckpointInfo& info : *listed) names.push_back(info.name);
  EXPECT_THAT(names, ::testing::ElementsAre("2", "a", "c", "b"));
  ASSERT_THAT(Checkpoint(id, "d"), IsOk());  // the numbered one goes
  EXPECT_THAT(Checkpoint(id, "e"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--checkpoint_bytes")));
  EXPECT_THAT(Checkpoint(id), StatusIs(absl::StatusCode::kResourceExhausted, _));
  Turn(id, {7}, 2, tokens);  // without an automatic one
  const auto info = Get(id);
  EXPECT_EQ(info->checkpoints, 4);
  EXPECT_EQ(info->checkpoint_bytes, metrics->session_checkpoint_bytes->Value());
  EXPECT_EQ(metrics->session_checkpoints->Value(), 4);
  ASSERT_THAT(Rewind(id, int64_t{20}), IsOk());
  ExpectHolds(id, First(tokens, 20));
}

TEST_F(PastTest, BeyondTheRingTheOldestPositionIsNamed) {
  EngineOptions options = PastOptions();
  options.past.checkpoint_tokens = 8;
  options.past.rewind_tokens = 20;
  StartEngine(options);
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, std::vector<int32_t>(40, 9), 20, tokens);
  const int64_t oldest = Get(id)->oldest_rewind;
  ASSERT_GT(oldest, 40);
  ASSERT_LT(oldest, 60);
  EXPECT_THAT(Rewind(id, oldest - 10),
              StatusIs(absl::StatusCode::kOutOfRange,
                       HasSubstr("that can be reached is " + std::to_string(oldest))));
  EXPECT_THAT(Rewind(id, int64_t{61}),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("holds 60 tokens")));
  ExpectHolds(Fork(id)->id, tokens);  // a refusal changes nothing
  ASSERT_THAT(Rewind(id, oldest), IsOk());
  ExpectHolds(id, First(tokens, oldest));
  ASSERT_THAT(Rewind(id, int64_t{0}), IsOk());
  ExpectHolds(id, {});
}

TEST_F(PastTest, WithoutABudgetThereIsNothingButTheStart) {
  StartEngine();
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, {3, 4, 5}, 6, tokens);
  EXPECT_THAT(Checkpoint(id, "a"), StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_THAT(Rewind(id, int64_t{4}), StatusIs(absl::StatusCode::kOutOfRange, _));
  ASSERT_THAT(Rewind(id, int64_t{0}), IsOk());
  ExpectHolds(id, {});
}

TEST_F(PastTest, AnActiveTurnRefusesThemAll) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({3, 4}, 100)));
  engine->Tick();
  constexpr auto kBusy = absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(Fork(id), StatusIs(kBusy, _));
  EXPECT_THAT(Checkpoint(id, "a"), StatusIs(kBusy, _));
  EXPECT_THAT(Rewind(id, int64_t{1}), StatusIs(kBusy, _));
  EXPECT_THAT(List(id), IsOk());
}

TEST_F(PastTest, AStrangerFindsNothing) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  constexpr auto kUnknown = absl::StatusCode::kNotFound;
  EXPECT_THAT(Fork(id, "bob"), StatusIs(kUnknown, HasSubstr("is unknown")));
  EXPECT_THAT(Checkpoint(id, "a", "bob"), StatusIs(kUnknown, HasSubstr("is unknown")));
  EXPECT_THAT(List(id, "bob"), StatusIs(kUnknown, HasSubstr("is unknown")));
  EXPECT_THAT(Rewind(id, int64_t{0}, "bob"), StatusIs(kUnknown, HasSubstr("is unknown")));
}

TEST_F(PastTest, ReplayIsATurnAmongOthersAndRunsToItsEnd) {
  EngineOptions options = PastOptions();
  options.past.checkpoint_bytes = 0;  // everything is fed again
  StartEngine(options);
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, std::vector<int32_t>(200, 9), 1, tokens);
  Reader other = Generate(Greedy({5}, 20));
  engine->Tick();
  std::optional<absl::StatusOr<SessionSnapshotInfo>> answer;
  engine->Rewind({.owner = "alice",
                  .session = id,
                  .target = int64_t{190},
                  .deadline = clock.Monotonic() + absl::Seconds(1)},
                 [&](auto info) { answer = std::move(info); });
  for (int i = 0; i < 5; ++i) {
    engine->Tick();
    other.Read();
  }
  EXPECT_EQ(other.token_count(), 6u);  // one a step, as before
  EXPECT_FALSE(answer.has_value());
  EXPECT_EQ(Get(id)->phase, SessionPhase::kPrefilling);
  clock.Advance(absl::Seconds(2));  // its caller has given up
  RunToIdle({&other});
  ASSERT_THAT(*answer, IsOk());
  EXPECT_EQ((*answer)->context_tokens, 190);
  EXPECT_EQ(metrics->session_rewind_tokens->Value(), 189);
  ExpectHolds(id, First(tokens, 190));
}

TEST_F(PastTest, AStepThatFailsInAReplayLosesTheSession) {
  EngineOptions options = PastOptions();
  options.past.checkpoint_bytes = 0;
  StartEngine(options);
  const SessionId id = OpenOne();
  std::vector<int32_t> tokens;
  Turn(id, std::vector<int32_t>(50, 9), 1, tokens);
  decoder->FailNextStep();
  EXPECT_THAT(Rewind(id, int64_t{40}), StatusIs(absl::StatusCode::kDataLoss, _));
  EXPECT_THAT(Get(id), StatusIs(absl::StatusCode::kDataLoss, _));
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(PastTest, ADrainRefusesForkAndRewind) {
  StartEngine(PastOptions());
  const SessionId id = OpenOne();
  engine->BeginDrain();
  EXPECT_THAT(Fork(id), StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(Rewind(id, int64_t{0}), StatusIs(absl::StatusCode::kUnavailable, _));
}

}  // namespace
}  // namespace gma::testing
