// Sessions on their way from the store, and turns that are run again: faults on the way, clients
// that know more than the store, and what is told before it is written.
#include "absl/strings/escaping.h"
#include "server/session/sealed.h"
#include "tests/unit/engine/store_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Optional;

class RecoveryTest : public StoreTest {
 protected:
  // Only ticks: the store does nothing.
  void TickOnly(Reader& reader, int ticks = 20) {
    for (int i = 0; i < ticks; ++i) engine->Tick();
    reader.Read();
  }
  void ClaimElsewhere(const Known& session) {
    const StoreKey name{.owner = absl::BytesToHexString(OwnerHash("alice").substr(0, 16)),
                        .id = session.id.Hex()};
    ASSERT_THAT(store->Claim(name), IsOk());
  }
};

TEST_F(RecoveryTest, AStepThatFailsWhileAnEndedTurnIsRunAgainLosesNothing) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {4, 5}, 12);
  for (const bool nan : {false, true}) {
    Kill(options);
    Reader reader = Generate(TurnOf(session, {7}, 3));
    // The claim, and the first steps of the turn before.
    RunUntil([&] { return decoder->steps() >= 3; });
    nan ? decoder->NanForRow(decoder->last_rows().front()) : decoder->FailNextStep();
    Run({&reader});
    ASSERT_TRUE(reader.status.has_value());
    EXPECT_FALSE(reader.status->ok()) << "the session was not all there";
    EXPECT_EQ(reader.token_count(), 0);
    // It is still in the store, and comes back as it was.
    Turn(session, {7}, 3);
  }
}

TEST_F(RecoveryTest, AnEndThatIsNotWrittenIsReachedAgainBeforeTheNextTurn) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {4, 5}, 6);
  Reader reader = Generate(spec);
  // The beginning is written. All tokens are read by its client; the end is not written, and so is
  // not told.
  RunUntil([&] { return reader.token_count() > 0; }, {&reader});
  TickOnly(reader);
  ASSERT_EQ(reader.token_count(), 6);
  EXPECT_FALSE(reader.status.has_value());
  Take(session, spec, reader.tokens());
  Kill(options);
  Turn(session, {7}, 3);
  // Without a number, what is asked for comes after all that the turn can have told.
  spec = TurnOf(session, {9}, 6);
  Reader second = Generate(spec);
  RunUntil([&] { return second.token_count() > 0; }, {&second});
  TickOnly(second);
  Take(session, spec, second.tokens());
  Kill(options);
  GenerateSpec third = TurnOf(session, {8}, 4);
  third.after.reset();
  Reader last = Generate(third);
  Run({&last});
  ASSERT_THAT(last.status, Optional(IsOk()));
  Take(session, third, last.tokens());
}

TEST_F(RecoveryTest, AnAppendWhoseEndWasNotWrittenIsDoneForGood) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Run();
  engine->Append({.owner = "alice", .session = session.id, .input = {.tokens = {5, 6, 7}}},
                 [](const auto&) {});
  engine->Tick();
  ASSERT_TRUE(keeper->StepWriter());  // the beginning
  session.tokens = {5, 6, 7};
  session.last_sequence = 1;
  for (int life = 0; life < 3; ++life) {
    Kill(options);
    Turn(session, {4}, 3);
  }
}

TEST_F(RecoveryTest, ATurnThatNobodyComesBackToEndsWhereItWouldHave) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {4, 5}, 6);
  Reader reader = Generate(spec);
  RunUntil([&] { return reader.token_count() >= 2; }, {&reader});
  Kill(options);
  EXPECT_THAT(Info_(session.id), IsOk());  // it wakes, and its turn waits
  clock.Advance(options.resume_window + absl::Seconds(1));
  Run();
  EXPECT_EQ(Info_(session.id)->last_sequence, 8);
  auto stream = engine->Resume({.owner = "alice", .session = session.id, .after = 0}, nullptr);
  Reader whole(*stream);
  Run({&whole});
  Take(session, spec, whole.tokens());
  Turn(session, {7}, 3);
}

TEST_F(RecoveryTest, ANewTurnTakesTheOldOneFromWhereItsClientHasSeenIt) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {4, 5}, 20);
  Reader reader = Generate(spec);
  ReadTokens(reader, 5);
  std::vector<int32_t> seen = reader.tokens();
  Kill(options);
  // It gives up the answer after what it has seen, and asks for something else.
  session.tokens.insert(session.tokens.end(), spec.input.tokens.begin(), spec.input.tokens.end());
  session.tokens.insert(session.tokens.end(), seen.begin(), seen.end());
  session.last_sequence = 1 + static_cast<int64_t>(seen.size());
  GenerateSpec next = TurnOf(session, {9}, 3);
  Reader second = Generate(next);
  Run({&second});
  ASSERT_THAT(second.status, Optional(IsOk()));
  Take(session, next, second.tokens());
}

TEST_F(RecoveryTest, WhatItsReaderWantsOfATurnComesAfterWhatHeHasSeen) {
  const EngineOptions options = StoreOptions();
  for (const bool input : {false, true}) {
    Start(options);
    Known session = OpenKnown();
    GenerateSpec spec = TurnOf(session, {4, 5}, 20);
    spec.request_key = "turn";
    Reader reader = Generate(spec);
    ReadTokens(reader, 8);
    const std::vector<int32_t> seen = reader.tokens();
    Kill(options);
    spec.after = 1 + static_cast<int64_t>(seen.size());
    reader.GoOnWith(*engine->Generate(spec, nullptr));
    RunUntil([&] { return decoder->steps() == 2; });
    if (input) {
      AppendSpec append{.owner = "alice", .session = session.id, .input = {.tokens = {9}}};
      append.turn = reader.stream();
      engine->Append(std::move(append), [](const auto& info) { EXPECT_THAT(info, IsOk()); });
    } else {
      engine->Cancel(reader.stream(), /*by_client=*/true);
    }
    Run({&reader});
    ASSERT_THAT(reader.status, Optional(IsOk()))
        << input << " " << reader.token_count() << " after " << seen.size() << " fin "
        << reader.finished.size() << " app " << reader.appended.size();
    const auto expected = AnswerOf({}, {4, 5}, spec.sampling, spec.stop).tokens;
    const size_t common = input ? reader.appended_after.at(0) : reader.token_count();
    EXPECT_GE(common, seen.size());
    EXPECT_LT(common, 20);
    EXPECT_TRUE(std::equal(reader.tokens().begin(),
                           reader.tokens().begin() + static_cast<ptrdiff_t>(common),
                           expected.begin()));
  }
}

TEST_F(RecoveryTest, ATurnThatWasCutBeforeItBeganKeepsItsKind) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  ASSERT_THAT(Ask<SessionSnapshotInfo>([&](auto done) {
                engine->Append(
                    {.owner = "alice", .session = session.id, .input = {.tokens = {5, 6}}},
                    std::move(done));
              }),
              IsOk());
  GenerateSpec spec = On(session.id, Greedy({3}, 5));
  spec.request_key = "turn";
  Reader reader = Generate(spec);
  engine->Tick();  // it waits for the store
  engine->Cancel(reader.stream(), /*by_client=*/true);
  Run({&reader});
  ASSERT_EQ(reader.finished.size(), 1);
  Kill(options);
  spec.after = 2;  // Appended, Finished
  Reader again = Generate(spec);
  Run({&again});
  EXPECT_THAT(again.status, Optional(IsOk()));
}

TEST_F(RecoveryTest, AnErrorOnTheWayToWhereTheReaderIsIsToldAsWhatItIs) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {4, 5}, 20);
  spec.request_key = "turn";
  Reader reader = Generate(spec);
  ReadTokens(reader, 8);
  Kill(options);
  spec.after = 1 + static_cast<int64_t>(reader.token_count());
  reader.GoOnWith(*engine->Generate(spec, nullptr));
  RunUntil([&] { return decoder->steps() == 2; });
  decoder->FailNextStep();
  Run({&reader});
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kDataLoss, HasSubstr("step"))));
  reader.status.reset();
  reader.GoOnWith(*engine->Generate(spec, nullptr));
  Run({&reader});
  EXPECT_THAT(reader.status, Optional(IsOk()));
  Take(session, spec, reader.tokens());
}

TEST_F(RecoveryTest, ACutIsToldOnceItIsWritten) {
  Start(StoreOptions());
  Known session = OpenKnown();
  Reader reader = Generate(TurnOf(session, {4, 5}, 20));
  ReadTokens(reader, 3);
  engine->Cancel(reader.stream(), /*by_client=*/true);
  TickOnly(reader);
  EXPECT_TRUE(reader.finished.empty());
  EXPECT_FALSE(reader.status.has_value());
  Run({&reader});
  ASSERT_EQ(reader.finished.size(), 1);
  EXPECT_EQ(reader.finished[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(reader.status, Optional(IsOk()));
}

TEST_F(RecoveryTest, InputIsToldOnceItIsWrittenAlsoBeforeTheFirstStep) {
  for (const Durability durability : {Durability::kInterval, Durability::kAlways}) {
    EngineOptions options = StoreOptions();
    options.durability = durability;
    Start(options);
    Known session = OpenKnown();
    GenerateSpec spec = TurnOf(session, {4, 5}, 20);
    Reader reader = Generate(spec);
    const auto append = [&](int32_t token) {
      AppendSpec input{.owner = "alice", .session = session.id, .input = {.tokens = {token}}};
      input.turn = reader.stream();
      engine->Append(std::move(input), [](const auto& info) { EXPECT_THAT(info, IsOk()); });
    };
    engine->Tick();  // the turn waits for the store
    append(8);
    TickOnly(reader);
    EXPECT_TRUE(reader.appended.empty());
    ReadTokens(reader, 3);
    EXPECT_EQ(reader.appended.size(), 1);
    append(9);
    append(10);
    TickOnly(reader);
    EXPECT_EQ(reader.appended.size(), 1);
    keeper->StepWriter();  // one of the two
    TickOnly(reader);
    EXPECT_EQ(reader.appended.size(), 1);
    const size_t before = reader.token_count();
    Run({&reader});
    EXPECT_EQ(reader.appended.size(), 3);
    EXPECT_EQ(reader.appended_after[2], before) << "a token was drawn while it was held";
    EXPECT_THAT(reader.status, Optional(IsOk()));
    EXPECT_EQ(reader.token_count(), 20);
  }
}

TEST_F(RecoveryTest, ARewindIsToldOnceItIsWritten) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {4, 5}, 6);
  std::optional<absl::Status> told;
  engine->Rewind({.owner = "alice", .session = session.id, .target = int64_t{3}},
                 [&](const auto& info) { told = info.status(); });
  for (int i = 0; i < 20; ++i) engine->Tick();
  EXPECT_FALSE(told.has_value());
  Run();
  EXPECT_THAT(told, Optional(IsOk()));
  Kill(options);
  session.tokens.resize(3);
  Turn(session, {7}, 3);
}

TEST_F(RecoveryTest, ASessionThatMovedAwayMayComeBack) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {4, 5}, 3);
  ClaimElsewhere(session);
  Reader refused = Generate(TurnOf(session, {5}, 2));
  Run({&refused});
  EXPECT_THAT(refused.status,
              Optional(StatusIs(absl::StatusCode::kAborted, HasSubstr("another server"))));
  // The other one is gone: whoever is asked next has it.
  Turn(session, {5}, 2);
  ASSERT_THAT(Ask<SessionSnapshotInfo>(
                  [&](auto done) { engine->Close("alice", session.id, std::move(done)); }),
              IsOk());
  EXPECT_THAT(Info_(session.id), StatusIs(absl::StatusCode::kNotFound, HasSubstr("closed")));
}

TEST_F(RecoveryTest, AQuotaInTheStoreIsNamedAndInNobodyElsesWay) {
  for (const Durability durability : {Durability::kInterval, Durability::kAlways}) {
    EngineOptions options = StoreOptions();
    options.durability = durability;
    options.owner_disk_bytes = static_cast<int64_t>(2 * (RowBytes() + 2048));
    directory = dir.File("quota" + std::to_string(static_cast<int>(durability)));
    Start(options);
    std::optional<absl::Status> refused;
    const auto saturate = [&] {
      for (int i = 0; i < 3 && !refused; ++i) {
        const auto info = OpenNow();
        if (!info.ok()) refused = info.status();
        for (int turn = 0; turn < 10 && !refused; ++turn) {
          Reader reader = Generate(On(info->id, Greedy({3, 4}, 3)));
          Run({&reader});
          if (!reader.status->ok()) refused = reader.status;
        }
      }
    };
    saturate();
    const std::string limit = std::to_string(options.owner_disk_bytes);
    EXPECT_THAT(refused, Optional(StatusIs(absl::StatusCode::kResourceExhausted,
                                           AllOf(HasSubstr(limit), HasSubstr("owner_disk_bytes"),
                                                 HasSubstr("bytes in the store")))));
    // Her sessions stay in memory; his go to the store past them.
    for (int i = 0; i < 30; ++i) {
      const auto info = OpenNow("bob" + std::to_string(i % 15));
      ASSERT_THAT(info, IsOk()) << i << " " << info.status();
      clock.Advance(absl::Seconds(2));
      Run();
    }
  }
}

TEST_F(RecoveryTest, AnOwnersSessionsInTheStoreCountWhenTheyWake) {
  EngineOptions options = StoreOptions();
  Start(options);
  std::vector<Known> sessions;
  for (int i = 0; i < 6; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {4, i}, 3);
  }
  options.max_sessions_per_owner = 4;
  Restart(options);
  for (int i = 0; i < 4; ++i) Turn(sessions[i], {7}, 2);
  EXPECT_THAT(Info_(sessions[4].id),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 4")));
  ASSERT_THAT(Ask<SessionSnapshotInfo>(
                  [&](auto done) { engine->Close("alice", sessions[0].id, std::move(done)); }),
              IsOk());
  Turn(sessions[4], {7}, 2);
}

TEST_F(RecoveryTest, ADrainLeavesWhatIsNotReadForTheNextServer) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {4, 5}, 10);
  spec.request_key = "turn";
  Reader reader = Generate(spec);
  ReadTokens(reader, 3);
  engine->Cancel(reader.stream(), /*by_client=*/false);
  engine->Tick();
  engine->BeginDrain();
  Run();
  EXPECT_TRUE(engine->Drained());
  // A checkpoint here must not make the cut turn the session's last word.
  (void)Ask<CheckpointInfo>(
      [&](auto done) { engine->Checkpoint("alice", session.id, "x", std::move(done)); });
  Restart(options);
  spec.after.reset();
  Reader again = Generate(spec);
  Run({&again});
  ASSERT_THAT(again.status, Optional(IsOk()));
  Take(session, spec, again.tokens());
}

}  // namespace
}  // namespace gma::testing
