// What survives: kills at any moment, orderly stops, stores that fail.
#include <random>

#include "absl/strings/escaping.h"
#include "base/failpoint.h"
#include "server/session/sealed.h"
#include "tests/unit/engine/store_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::Optional;

class DurabilityTest : public StoreTest {
 protected:
  ~DurabilityTest() override { ClearFailpoints(); }

  static EngineOptions Options(Durability durability) {
    EngineOptions options = StoreOptions();
    options.durability = durability;
    options.past.checkpoint_bytes = 8 * RowBytes();
    return options;
  }
  Reader Resume(const Known& session, int64_t after) {
    auto stream =
        engine->Resume({.owner = "alice", .session = session.id, .after = after}, nullptr);
    EXPECT_THAT(stream, IsOk());
    return Reader(*stream);
  }
};

class EveryDurability : public DurabilityTest, public ::testing::WithParamInterface<Durability> {};
INSTANTIATE_TEST_SUITE_P(All, EveryDurability,
                         ::testing::Values(Durability::kNone, Durability::kInterval,
                                           Durability::kAlways));

TEST_P(EveryDurability, AnOrderlyStopKeepsEverySession) {
  const EngineOptions options = Options(GetParam());
  Start(options);
  std::vector<Known> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {i + 1, 5}, 3);
  }
  for (int life = 0; life < 3; ++life) {
    Restart(options);
    for (Known& session : sessions) {
      EXPECT_EQ(Info_(session.id)->context_tokens, static_cast<int64_t>(session.tokens.size()));
      Turn(session, {life + 1}, 2);
    }
  }
}

class Journaled : public DurabilityTest, public ::testing::WithParamInterface<Durability> {};
INSTANTIATE_TEST_SUITE_P(All, Journaled,
                         ::testing::Values(Durability::kInterval, Durability::kAlways));

TEST_P(Journaled, AKillBetweenTurnsLosesNothing) {
  EngineOptions options = Options(GetParam());
  options.snapshot_tokens = 30;
  Start(options);
  std::vector<Known> sessions;
  for (int i = 0; i < 12; ++i) sessions.push_back(OpenKnown());
  std::mt19937 random(3);
  for (int life = 0; life < 6; ++life) {
    for (int i = 0; i < 30; ++i) {
      Known& session = sessions[random() % sessions.size()];
      Turn(session, {static_cast<int32_t>(random() % 60 + 1), 5}, 1 + random() % 6);
    }
    Kill(options);
  }
  for (Known& session : sessions) {
    const Info info = Info_(session.id);
    ASSERT_THAT(info, IsOk());
    EXPECT_EQ(info->context_tokens, static_cast<int64_t>(session.tokens.size()));
    EXPECT_EQ(info->last_sequence, session.last_sequence);
    Turn(session, {7}, 3);
  }
}

TEST_P(Journaled, ATurnThatOutlastsTheSessionsTtlOutlivesAKill) {
  const EngineOptions options = Options(GetParam());
  Start(options);
  const Info opened = OpenNow("alice", absl::Seconds(100));
  ASSERT_THAT(opened, IsOk());
  Known session = {.id = opened->id, .tokens = {}};
  Turn(session, {4, 5}, 3);
  GenerateSpec spec = TurnOf(session, {3, 4}, 20);
  spec.request_key = "turn";
  spec.initial_credit = 2;  // and no more: it stands still, and is no less active
  Reader first = Generate(spec);
  for (int i = 0; i < 10; ++i) {
    clock.Advance(absl::Seconds(40));
    Run({&first});
  }
  EXPECT_EQ(first.token_count(), 2U);
  Kill(options);
  Reader second = Resume(session, session.last_sequence + 3);
  Run({&second});
  ASSERT_THAT(second.status, Optional(IsOk()));
  std::vector<int32_t> answer(first.tokens().begin(), first.tokens().end());
  answer.insert(answer.end(), second.tokens().begin(), second.tokens().end());
  Take(session, spec, answer);
  EXPECT_EQ(Info_(session.id)->ttl, absl::Seconds(100));
}

TEST_P(Journaled, AStreamThatAKillHasCutGoesOnAfterTheLastNumber) {
  const EngineOptions options = Options(GetParam());
  for (const size_t seen : {size_t{1}, size_t{5}, size_t{19}}) {
    directory = dir.File("cut" + std::to_string(seen));
    Start(options);
    Known session = OpenKnown();
    Turn(session, {4, 5}, 3);
    GenerateSpec spec = TurnOf(session, {3, 4}, 20);
    spec.sampling.temperature = 1;
    spec.sampling.seed = 99;
    spec.request_key = "turn";
    Reader first = Generate(spec);
    ReadTokens(first, seen);
    const std::vector<int32_t> before(first.tokens().begin(), first.tokens().end());
    const int64_t after = session.last_sequence + 1 + static_cast<int64_t>(before.size());
    Kill(options);
    Reader second = Resume(session, after);
    Run({&second});
    ASSERT_THAT(second.status, Optional(IsOk()));
    std::vector<int32_t> all = before;
    all.insert(all.end(), second.tokens().begin(), second.tokens().end());
    Take(session, spec, all);
    Turn(session, {7}, 3);
  }
}

TEST_P(Journaled, TheSameRequestKeyFindsTheTurnAfterAKill) {
  const EngineOptions options = Options(GetParam());
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {3, 4}, 10);
  spec.request_key = "turn";
  Reader first = Generate(spec);
  Run({&first});
  ASSERT_THAT(first.status, Optional(IsOk()));
  Kill(options);
  // The client has not heard of it: all of the answer comes again, and nothing is fed twice.
  GenerateSpec again = spec;
  again.after.reset();
  Reader second = Generate(again);
  Run({&second});
  EXPECT_THAT(second.status, Optional(IsOk()));
  EXPECT_EQ(second.tokens(), first.tokens());
  Take(session, spec, second.tokens());
  Turn(session, {7}, 3);
}

TEST_P(Journaled, AppendsAndInputWhileGeneratingComeBack) {
  const EngineOptions options = Options(GetParam());
  Start(options);
  Known session = OpenKnown();
  AppendSpec append{.owner = "alice", .session = session.id, .input = {}, .request_key = "a"};
  append.input.tokens = {1, 2, 3};
  const auto feed = [&] {
    return Ask<SessionSnapshotInfo>([&](auto done) { engine->Append(append, std::move(done)); });
  };
  ASSERT_THAT(feed(), IsOk());
  Reader reader = Generate(On(session.id, Greedy({4}, 12)));
  ReadTokens(reader, 4);
  AppendSpec input{.owner = "alice", .session = session.id, .input = {}, .turn = reader.stream()};
  input.input.tokens = {9, 9};
  engine->Append(input, [](auto info) { EXPECT_THAT(info, IsOk()); });
  Run({&reader});
  ASSERT_THAT(reader.status, Optional(IsOk()));
  const auto before = Info_(session.id);
  Kill(options);
  const auto after = Info_(session.id);
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->context_tokens, before->context_tokens);
  EXPECT_EQ(after->last_sequence, before->last_sequence);
  Reader again = Resume(session, 1);  // all of the turn, the Append was event 1
  Run({&again});
  EXPECT_THAT(again.status, Optional(IsOk()));
  EXPECT_EQ(again.tokens(), reader.tokens());
  // One more turn, so that both are lived through without drawing.
  Reader next = Generate(On(session.id, Greedy({6}, 4)));
  Run({&next});
  Kill(options);
  Reader last = Resume(session, before->last_sequence);
  Run({&last});
  EXPECT_EQ(last.tokens(), next.tokens());
}

TEST_P(Journaled, TurnsThatWereCutAreCutAtTheSamePlace) {
  EngineOptions options = Options(GetParam());
  options.max_step_tokens = 4;
  options.max_batch_rows = 4;
  Start(options);
  for (const bool by_client : {true, false}) {
    for (const int ticks : {1, 2, 3, 5, 8}) {
      Known session = OpenKnown();
      Turn(session, {1, 2}, 2);
      Reader reader = Generate(TurnOf(session, {3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 20));
      for (int i = 0; i < ticks; ++i) {
        keeper->StepWriter();
        engine->Tick();
      }
      engine->Cancel(reader.stream(), by_client);
      Run({&reader});
      clock.Advance(options.resume_window);
      Run();
      const auto before = Info_(session.id);
      // What a session says next follows from all that it holds.
      Reader expected = Generate(On(session.id, Greedy({13}, 4)));
      Run({&expected});
      Kill(options);
      const auto after = Info_(session.id);
      ASSERT_THAT(after, IsOk());
      EXPECT_EQ(after->context_tokens, before->context_tokens + 5);
      Reader again = Resume(session, before->last_sequence);
      Run({&again});
      EXPECT_EQ(again.tokens(), expected.tokens()) << by_client << ticks;
    }
  }
}

TEST_P(Journaled, RewindsForksImportsAndNamesComeBack) {
  const EngineOptions options = Options(GetParam());
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 4);
  ASSERT_THAT(Ask<CheckpointInfo>([&](auto done) {
                engine->Checkpoint("alice", session.id, "here", std::move(done));
              }),
              IsOk());
  Turn(session, {5}, 4);
  const Info fork = Ask<SessionSnapshotInfo>(
      [&](auto done) { engine->Fork("alice", session.id, std::move(done)); });
  ASSERT_THAT(fork, IsOk());
  Known forked = {.id = fork->id, .tokens = session.tokens};
  ASSERT_THAT(Ask<SessionSnapshotInfo>([&](auto done) {
                engine->Rewind({.owner = "alice", .session = session.id, .target = int64_t{4}},
                               std::move(done));
              }),
              IsOk());
  session.tokens.resize(4);
  Run();
  Kill(options);
  Turn(session, {8}, 3);
  Turn(forked, {9}, 3);
  ASSERT_THAT(Ask<SessionSnapshotInfo>([&](auto done) {
                engine->Rewind({.owner = "alice", .session = forked.id, .target = "here"},
                               std::move(done));
              }),
              IsOk());
  forked.tokens.resize(6);
  Turn(forked, {10}, 3);
}

TEST_F(DurabilityTest, WithoutAJournalNobodyFindsAnOlderState) {
  const EngineOptions options = Options(Durability::kNone);
  Start(options);
  std::vector<Known> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {i + 1}, 3);
  }
  ASSERT_EQ(Info_(sessions[0].id)->tier, SessionTier::kDisk);
  const Known parked = sessions[0];
  Turn(sessions[0], {5}, 3);  // its copy in the store is of the past now
  Run();
  Kill(options);
  EXPECT_THAT(Info_(sessions[0].id), StatusIs(absl::StatusCode::kNotFound, _));
  Turn(sessions[1], {5}, 3);
}

TEST_F(DurabilityTest, AFullStoreIsSeenAndServingGoesOn) {
  const EngineOptions options = Options(Durability::kInterval);
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  ASSERT_THAT(SetFailpoints("store.write=ENOSPC"), IsOk());
  Turn(session, {5}, 3);
  Turn(session, {6}, 3);
  EXPECT_GT(metrics->store_errors[StoreCallLabel::kAppend]->Value() +
                metrics->store_errors[StoreCallLabel::kSave]->Value(),
            0);
  clock.Advance(absl::Seconds(5));
  Run();
  EXPECT_GE(metrics->store_lag->Value(), 5);
  ClearFailpoints();
  clock.Advance(absl::Seconds(5));
  Run();
  EXPECT_EQ(metrics->store_lag->Value(), 0);
  Kill(options);
  Turn(session, {7}, 3);
}

TEST_F(DurabilityTest, AClosedSessionLeavesTheStoreAsSoonAsItCan) {
  const EngineOptions options = Options(Durability::kInterval);
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  ASSERT_THAT(SetFailpoints("store.unlink=EIO"), IsOk());
  EXPECT_THAT(Ask<SessionSnapshotInfo>(
                  [&](auto done) { engine->Close("alice", session.id, std::move(done)); }),
              IsOk());
  Run();
  ClearFailpoints();
  clock.Advance(absl::Seconds(2));
  Run();
  Kill(options);
  EXPECT_THAT(Info_(session.id), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(DurabilityTest, AlwaysRefusesATurnThatCannotBeWrittenDown) {
  const EngineOptions options = Options(Durability::kAlways);
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  ASSERT_THAT(SetFailpoints("store.write=ENOSPC"), IsOk());
  for (int i = 0; i < 2; ++i) {
    GenerateSpec spec = TurnOf(session, {5}, 3);
    spec.request_key = "again";
    Reader reader = Generate(spec);
    Run({&reader});
    EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kUnavailable, _)));
    EXPECT_TRUE(reader.answers.empty());
  }
  ClearFailpoints();
  clock.Advance(absl::Seconds(2));
  Run();
  Turn(session, {5}, 3);
  Kill(options);
  Turn(session, {6}, 3);
}

TEST_F(DurabilityTest, WhoLostASessionToAnotherServerMayNotWriteIt) {
  const EngineOptions options = Options(Durability::kInterval);
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  Reader reader = Generate(TurnOf(session, {5}, 20));
  ReadTokens(reader, 3);
  // Another server claims it behind this one's back.
  const StoreKey name{.owner = absl::BytesToHexString(OwnerHash("alice").substr(0, 16)),
                      .id = session.id.Hex()};
  ASSERT_THAT(store->Claim(name), IsOk());
  Run({&reader});
  // The end of the turn could not be written: the session is not this server's any more, and all
  // that it knew of it is gone. Who asks for it has it from the store, with what that has taken.
  const auto again = Info_(session.id);
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->context_tokens, static_cast<int64_t>(session.tokens.size()));
  EXPECT_TRUE(again->detached);
}

TEST_F(DurabilityTest, AnOwnersQuotaInTheStoreIsKept) {
  EngineOptions options = Options(Durability::kAlways);
  options.owner_disk_bytes = static_cast<int64_t>(2 * RowBytes() + 4096);
  options.snapshot_tokens = 0;
  Start(options);
  bool refused = false;
  std::vector<Known> sessions;
  for (int i = 0; i < 8 && !refused; ++i) {
    sessions.push_back(OpenKnown());
    for (int turn = 0; turn < 3 && !refused; ++turn) {
      Reader reader = Generate(On(sessions.back().id, Greedy({3, 4}, 3)));
      Run({&reader});
      refused = !reader.status->ok();
    }
  }
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace gma::testing
