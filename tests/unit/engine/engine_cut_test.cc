// Turns that were cut, told again from the store: each as far as it went, with every event.
#include "tests/unit/engine/store_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::Optional;

class CutTest : public StoreTest {
 protected:
  void Input(const SessionId& session, const Reader& reader, std::vector<int32_t> tokens) {
    AppendSpec input{.owner = "alice", .session = session, .input = {.tokens = std::move(tokens)}};
    input.turn = reader.stream();
    engine->Append(std::move(input), [](const auto& info) { EXPECT_THAT(info, IsOk()); });
  }
  // Of its last turn, all events again after a kill.
  Reader Again(GenerateSpec spec, const EngineOptions& options) {
    Kill(options);
    Reader again = Generate(std::move(spec));
    Run({&again});
    return again;
  }
  void ExpectSame(const Reader& first, const Reader& again) {
    EXPECT_THAT(again.status, Optional(IsOk()));
    EXPECT_EQ(again.sequences, first.sequences);
    EXPECT_EQ(again.seed, first.seed);
    EXPECT_EQ(again.token_count(), first.token_count());
    ASSERT_EQ(again.appended.size(), first.appended.size());
    for (size_t i = 0; i < first.appended.size(); ++i) {
      EXPECT_EQ(again.appended[i].context_tokens, first.appended[i].context_tokens);
      EXPECT_EQ(again.appended[i].tokens, first.appended[i].tokens);
    }
    ASSERT_EQ(again.finished.size(), 1);
    EXPECT_EQ(again.finished[0].reason, FinishReason::kCancelled);
    EXPECT_EQ(again.finished[0].usage.prompt_tokens, first.finished[0].usage.prompt_tokens);
    EXPECT_EQ(again.finished[0].usage.cached_tokens, first.finished[0].usage.cached_tokens);
  }
  static GenerateSpec Keyed(GenerateSpec spec) {
    spec.request_key = "turn";
    return spec;
  }
};

TEST_F(CutTest, AnAnswerThatDrewNothingIsToldAgain) {
  EngineOptions options = StoreOptions();
  options.max_step_tokens = 2;
  for (const int steps : {0, 1, 3}) {
    Start(options);
    Known session = OpenKnown();
    Turn(session, {4, 5}, 3);
    const GenerateSpec spec = Keyed(TurnOf(session, {6, 7, 8, 9, 10, 11, 12, 13, 14}, 20));
    Reader reader = Generate(spec);
    engine->Tick();  // it waits for the store
    if (steps == 0) Input(session.id, reader, {3});
    const int64_t before = decoder->steps();
    RunUntil([&] { return decoder->steps() == before + steps; }, {&reader});
    if (steps == 3) Input(session.id, reader, {3, 2});
    engine->Cancel(reader.stream(), /*by_client=*/true);
    Run({&reader});
    ASSERT_EQ(reader.finished.size(), 1);
    ASSERT_EQ(reader.token_count(), 0);
    const auto info = Info_(session.id);
    for (int life = 0; life < 2; ++life) {
      ExpectSame(reader, Again(spec, options));
      const auto after = Info_(session.id);
      ASSERT_THAT(after, IsOk());
      EXPECT_EQ(after->context_tokens, info->context_tokens);
      EXPECT_EQ(after->last_sequence, info->last_sequence);
    }
  }
}

TEST_F(CutTest, AnAnswerThatWasCutInItsInputIsToldAgain) {
  EngineOptions options = StoreOptions();
  options.max_step_tokens = 2;
  for (const int steps : {0, 1, 2}) {
    Start(options);
    Known session = OpenKnown();
    const GenerateSpec spec = Keyed(TurnOf(session, {6, 7, 8}, 20));
    Reader reader = Generate(spec);
    RunUntil([&] { return reader.token_count() == 3; }, {&reader});
    Input(session.id, reader, {3, 2, 5, 6, 7, 8, 9});
    engine->Tick();
    keeper->StepWriter();  // the input
    for (int i = 0; i < steps; ++i) engine->Tick();
    engine->Cancel(reader.stream(), /*by_client=*/true);
    Run({&reader});
    ASSERT_EQ(reader.appended.size(), 1);
    const auto info = Info_(session.id);
    ExpectSame(reader, Again(spec, options));
    const auto after = Info_(session.id);
    ASSERT_THAT(after, IsOk());
    EXPECT_EQ(after->context_tokens, info->context_tokens);
    EXPECT_EQ(after->last_sequence, info->last_sequence);
  }
}

TEST_F(CutTest, InputThatACutOvertakesIsToldOnceItIsWritten) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Reader reader = Generate(TurnOf(session, {6, 7, 8}, 20));
  RunUntil([&] { return reader.token_count() == 3; }, {&reader});
  Input(session.id, reader, {3, 2, 5});
  engine->Cancel(reader.stream(), /*by_client=*/true);
  for (int i = 0; i < 10; ++i) engine->Tick();
  reader.Read();
  EXPECT_TRUE(reader.appended.empty());
  Run({&reader});
  EXPECT_EQ(reader.appended.size(), 1);
  EXPECT_EQ(reader.finished.size(), 1);
  EXPECT_THAT(reader.status, Optional(IsOk()));
}

TEST_F(CutTest, AnAppendIsToldAgain) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  const auto append = [&] {
    return Ask<SessionSnapshotInfo>([&](auto done) {
      engine->Append({.owner = "alice",
                      .session = session.id,
                      .input = {.tokens = {5, 6, 7}},
                      .request_key = "append"},
                     std::move(done));
    });
  };
  for (int life = 0; life < 2; ++life) {
    const auto info = append();
    ASSERT_THAT(info, IsOk());
    EXPECT_EQ(info->appended_tokens, 3);
    EXPECT_EQ(info->context_tokens, 3);
    EXPECT_EQ(info->last_sequence, 1);
    Kill(options);
  }
}

TEST_F(CutTest, ARewindThatAShutdownCutsLeavesTheSessionAsItWas) {
  EngineOptions options = StoreOptions();
  options.max_step_tokens = 2;
  for (const Durability durability : {Durability::kInterval, Durability::kAlways}) {
    options.durability = durability;
    Start(options);
    Known session = OpenKnown();
    Turn(session, {4, 5, 6}, 12);
    std::optional<absl::Status> told;
    engine->Rewind({.owner = "alice", .session = session.id, .target = int64_t{12}},
                   [&](const auto& info) { told = info.status(); });
    const int64_t before = decoder->steps();
    Reader nobody = Generate(Greedy({4}, 1));
    RunUntil([&] { return decoder->steps() >= before + 2; }, {&nobody});
    ASSERT_FALSE(told.has_value());
    Restart(options);
    EXPECT_FALSE(told->ok());
    Turn(session, {7}, 3);
  }
}

TEST_F(CutTest, ARewindBehindATurnThatIsRunAgainRewinds) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {4, 5, 6}, 12);
  Reader reader = Generate(TurnOf(session, {7}, 20));
  RunUntil([&] { return reader.token_count() >= 3; }, {&reader});
  Kill(options);
  // Whoever says nothing of what was seen gets the turn to its end first.
  const auto info = Ask<SessionSnapshotInfo>([&](auto done) {
    engine->Rewind({.owner = "alice", .session = session.id, .target = int64_t{9}},
                   std::move(done));
  });
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->context_tokens, 9);
  session.tokens.resize(9);
  session.last_sequence = info->last_sequence;
  Turn(session, {7}, 3);
}

TEST_F(CutTest, AppendAndRewindOfACallerWhoIsBehindAreRefused) {
  Start(StoreOptions());
  Known session = OpenKnown();
  Turn(session, {4, 5, 6}, 12);
  for (const int64_t after : {session.last_sequence - 1, session.last_sequence + 1}) {
    const absl::StatusCode code =
        after < session.last_sequence ? absl::StatusCode::kAborted : absl::StatusCode::kDataLoss;
    EXPECT_THAT(
        Ask<SessionSnapshotInfo>([&](auto done) {
          engine->Append(
              {.owner = "alice", .session = session.id, .input = {.tokens = {5}}, .after = after},
              std::move(done));
        }),
        StatusIs(code, _));
    EXPECT_THAT(
        Ask<SessionSnapshotInfo>([&](auto done) {
          engine->Rewind(
              {.owner = "alice", .session = session.id, .target = int64_t{3}, .after = after},
              std::move(done));
        }),
        StatusIs(code, _));
  }
  Turn(session, {7}, 3);
}

TEST_F(CutTest, OnlyOneTurnBeginsBehindOneThatIsRunAgain) {
  EngineOptions options = StoreOptions();
  options.max_step_tokens = 1;
  Start(options);
  Known session = OpenKnown();
  Reader reader = Generate(TurnOf(session, {4, 5}, 12));
  ReadTokens(reader, 4);
  Kill(options);
  // One that has seen nothing of the turn waits for its end; another has seen as much of it as the
  // session has by now.
  GenerateSpec first = TurnOf(session, {9}, 3), second = TurnOf(session, {8}, 3);
  first.after.reset();
  Reader one = Generate(first);
  RunUntil([&] { return decoder->steps() >= 3; });
  second.after = Info_(session.id)->last_sequence + 1;  // the tick that told it drew one more
  Reader two = Generate(second);
  Run({&one, &two});
  ASSERT_THAT(one.status, Optional(IsOk()));
  EXPECT_EQ(one.token_count(), 3);
  EXPECT_THAT(two.status, Optional(StatusIs(absl::StatusCode::kAborted, HasSubstr("between"))));
}

}  // namespace
}  // namespace gma::testing
