// Sessions in pool, memory and on disk go on with exactly their tokens, whatever tier they were in.
#include <algorithm>
#include <map>
#include <random>

#include "base/failpoint.h"
#include "server/engine/retry_hint.h"
#include "tests/unit/engine/store_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::Optional;

class TiersTest : public StoreTest {
 protected:
  SessionTier TierOf(const Known& session) { return Info_(session.id)->tier; }
  double Sessions(TierLabel tier) { return metrics->sessions[tier]->Value(); }
};

TEST_F(TiersTest, ManyMoreSessionsThanRowsGoOnWithExactlyTheirTokens) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 40; ++i) {
    sessions.push_back(OpenKnown());
    Run();
    EXPECT_LE(metrics->session_parked_bytes->Value(), 8.0 * static_cast<double>(RowBytes()));
  }
  EXPECT_GT(Sessions(TierLabel::kMemory), 0);
  EXPECT_GT(Sessions(TierLabel::kDisk), 20);
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    Known& session = sessions[random() % sessions.size()];
    Turn(session, {static_cast<int32_t>(random() % 60 + 1), 5}, 1 + random() % 6);
    EXPECT_EQ(TierOf(session), SessionTier::kPool);
  }
  for (Known& session : sessions) Turn(session, {7}, 3);
  EXPECT_EQ(Sessions(TierLabel::kPool) + Sessions(TierLabel::kMemory) + Sessions(TierLabel::kDisk),
            40);
}

TEST_F(TiersTest, ManyAtOnceWaitForRoomAndAllAreAnswered) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 30; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {i % 60 + 1}, 2);
  }
  std::vector<GenerateSpec> specs;
  std::vector<Reader> readers;
  for (Known& session : sessions) {
    specs.push_back(TurnOf(session, {9, 8, 7}, 4));
    readers.push_back(Generate(specs.back()));
  }
  std::vector<Reader*> all;
  for (Reader& reader : readers) all.push_back(&reader);
  Run(all);
  int answered = 0, refused = 0;
  for (size_t i = 0; i < readers.size(); ++i) {
    ASSERT_TRUE(readers[i].status.has_value());
    if (readers[i].status->ok()) {
      ++answered;
      Take(sessions[i], specs[i], readers[i].tokens());
    } else {
      // All rows were busy with the turns of others.
      ++refused;
      EXPECT_THAT(readers[i].status, Optional(StatusIs(absl::StatusCode::kResourceExhausted, _)));
      EXPECT_THAT(RetryAfterMs(*readers[i].status), Optional(_));
    }
  }
  EXPECT_GE(answered, 4);
  for (Known& session : sessions) Turn(session, {3}, 2);
}

TEST_F(TiersTest, WithoutAStoreSessionsStayInMemoryAndItsLimitIsTheEnd) {
  EngineOptions options = StoreOptions();
  options.past.checkpoint_bytes = 100 * RowBytes();
  StartEngine(options);
  std::vector<SessionId> ids;
  for (int i = 0; i < 12; ++i) {
    const auto info = Open();
    ASSERT_THAT(info, IsOk()) << i;
    ids.push_back(info->id);
    Reader reader = Generate(On(info->id, Greedy({3}, 2)));
    RunToIdle({&reader});  // leaves an automatic checkpoint, which has to make room
  }
  const auto refused = Open();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4 state rows")));
  EXPECT_THAT(RetryAfterMs(refused.status()), Optional(_));
  EXPECT_EQ(metrics->session_checkpoint_bytes->Value(), 0);
  EXPECT_EQ(Sessions(TierLabel::kPool), 4);
  EXPECT_EQ(Sessions(TierLabel::kMemory), 8);
  // A private request finds no row either, and one comes free with a session.
  Reader reader = Generate(Greedy({3}, 2));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kResourceExhausted, _)));
  ASSERT_THAT(CloseSession(ids.front()), IsOk());
  EXPECT_THAT(Open(), IsOk());
}

TEST_F(TiersTest, PrivateRequestsPushIdleSessionsDown) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(OpenKnown());
  for (Known& session : sessions) Turn(session, {4}, 2);
  GenerateSpec spec = Greedy({3, 4}, 6);
  spec.n = 3;
  Reader reader = Generate(spec);
  Run({&reader});
  EXPECT_THAT(reader.status, Optional(IsOk()));
  EXPECT_EQ(Sessions(TierLabel::kMemory), 3);
  EXPECT_EQ(TierOf(sessions[3]), SessionTier::kPool);  // used last
  for (Known& session : sessions) Turn(session, {5}, 2);
}

TEST_F(TiersTest, TheLastTurnIsToldAgainFromDiskAndAfterAnOrderlyStop) {
  Start(StoreOptions());
  Known session = OpenKnown();
  Reader first = Generate(TurnOf(session, {4, 5}, 6));
  Run({&first});
  const std::vector<int32_t> answer(first.tokens().begin(), first.tokens().end());
  ASSERT_EQ(answer.size(), 6U);
  for (const bool restarted : {false, true}) {
    for (int i = 0; i < 20; ++i) OpenKnown();
    Run();
    EXPECT_EQ(TierOf(session), SessionTier::kDisk);
    if (restarted) Restart(StoreOptions());
    // Its reader was cut, and has seen two tokens.
    auto stream = engine->Resume({.owner = "alice", .session = session.id, .after = 3}, nullptr);
    ASSERT_THAT(stream, IsOk());
    Reader reader(*stream);
    Run({&reader});
    EXPECT_THAT(reader.status, Optional(IsOk()));
    EXPECT_EQ(std::vector<int32_t>(reader.tokens().begin(), reader.tokens().end()),
              std::vector<int32_t>(answer.begin() + 2, answer.end()));
  }
}

TEST_F(TiersTest, APinnedSessionIsNeverParked) {
  Start(StoreOptions());
  Known pinned = OpenKnown();
  Turn(pinned, {4}, 3);
  const auto pin = [&](bool on) {
    return Ask<SessionSnapshotInfo>(
        [&](auto done) { engine->Pin("alice", pinned.id, on, std::move(done)); });
  };
  ASSERT_THAT(pin(true), IsOk());
  std::vector<Known> others;
  for (int i = 0; i < 20; ++i) others.push_back(OpenKnown());
  Run();
  EXPECT_EQ(TierOf(pinned), SessionTier::kPool);
  EXPECT_TRUE(Info_(pinned.id)->pinned);
  Turn(pinned, {5}, 3);
  ASSERT_THAT(pin(false), IsOk());
  for (int i = 0; i < 20; ++i) others.push_back(OpenKnown());
  Run();
  EXPECT_EQ(TierOf(pinned), SessionTier::kDisk);
  // Pinning wakes it.
  ASSERT_THAT(pin(true), IsOk());
  EXPECT_EQ(TierOf(pinned), SessionTier::kPool);
  Turn(pinned, {6}, 3);
  EXPECT_THAT(Ask<SessionSnapshotInfo>(
                  [&](auto done) { engine->Pin("bob", pinned.id, true, std::move(done)); }),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
}

TEST_F(TiersTest, ASessionThatIsUsedOnItsWayToDiskStays) {
  EngineOptions options = StoreOptions();
  options.park_memory_bytes = static_cast<int64_t>(3 * RowBytes());
  Start(options);
  std::vector<Known> sessions;
  for (int i = 0; i < 4; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {i + 1}, 2);
  }
  // Three more park the oldest three; what is written is not answered yet.
  for (int i = 0; i < 3; ++i) {
    engine->Open({.owner = "alice"}, [](auto) {});
    engine->Tick();
  }
  const GenerateSpec spec = TurnOf(sessions[0], {9}, 3);
  Reader reader = Generate(spec);
  Run({&reader});
  ASSERT_THAT(reader.status, Optional(IsOk()));
  Take(sessions[0], spec, reader.tokens());
  EXPECT_EQ(TierOf(sessions[0]), SessionTier::kPool);
  for (Known& session : sessions) Turn(session, {5}, 2);
}

TEST_F(TiersTest, SessionsExpireInEveryTierAndSayWhen) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 20; ++i) {
    const auto info = OpenNow("alice", absl::Seconds(100));
    ASSERT_THAT(info, IsOk());
    sessions.push_back({.id = info->id, .tokens = {}});
  }
  Run();
  ASSERT_GT(Sessions(TierLabel::kDisk), 0);
  ASSERT_GT(Sessions(TierLabel::kMemory), 0);
  clock.Advance(absl::Seconds(100));
  Run();
  for (const TierLabel tier : {TierLabel::kPool, TierLabel::kMemory, TierLabel::kDisk}) {
    EXPECT_EQ(Sessions(tier), 0);
  }
  clock.Advance(absl::Seconds(5));
  for (const Known& session : sessions) {
    EXPECT_THAT(Info_(session.id),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired 5 s ago")));
  }
  EXPECT_GT(metrics->session_evictions[EvictionLabel::kDiskExpired]->Value(), 0);
  // The store says it too, to a server that never knew them.
  clock.Advance(absl::Seconds(200));
  Kill(StoreOptions());
  EXPECT_THAT(Info_(sessions[0].id),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired at")));
}

TEST_F(TiersTest, AClosedSessionIsGoneFromTheStore) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 20; ++i) sessions.push_back(OpenKnown());
  Run();
  for (const Known& session : sessions) {
    EXPECT_THAT(Ask<SessionSnapshotInfo>(
                    [&](auto done) { engine->Close("alice", session.id, std::move(done)); }),
                IsOk());
  }
  Run();
  Kill(StoreOptions());
  for (const Known& session : sessions) {
    EXPECT_THAT(Info_(session.id), StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
  }
}

TEST_F(TiersTest, APageIsFullWhileWhatWasClosedIsStillInTheStore) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 12; ++i) Turn(sessions.emplace_back(OpenKnown()), {3}, 2);
  Restart(StoreOptions());
  std::ranges::sort(sessions, {}, &Known::id);
  ASSERT_THAT(SetFailpoints("store.unlink=EIO"), IsOk());
  for (int i = 0; i < 8; ++i) {
    EXPECT_THAT(Ask<SessionSnapshotInfo>(
                    [&](auto done) { engine->Close("alice", sessions[i].id, std::move(done)); }),
                IsOk());
  }
  const auto page = Ask<std::vector<SessionSnapshotInfo>>(
      [&](auto done) { engine->List("alice", std::nullopt, 3, std::move(done)); });
  ClearFailpoints();
  ASSERT_THAT(page, IsOk());
  ASSERT_EQ(page->size(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ((*page)[i].id, sessions[8 + i].id);
}

TEST_F(TiersTest, SessionsAreListedInEveryTierAndFromTheStore) {
  Start(StoreOptions());
  std::vector<SessionId> ids;
  for (int i = 0; i < 20; ++i) {
    Known session = OpenKnown();
    Turn(session, {4}, 2);
    ids.push_back(session.id);
  }
  ASSERT_THAT(OpenNow("bob"), IsOk());
  std::ranges::sort(ids);
  const auto pages = [&] {
    std::vector<SessionSnapshotInfo> all;
    for (std::optional<SessionId> after;;) {
      const auto page = Ask<std::vector<SessionSnapshotInfo>>(
          [&](auto done) { engine->List("alice", after, 3, std::move(done)); });
      EXPECT_THAT(page, IsOk());
      if (!page.ok() || page->empty()) return all;
      EXPECT_LE(page->size(), 3U);
      all.insert(all.end(), page->begin(), page->end());
      after = all.back().id;
    }
  };
  const auto ids_of = [](const std::vector<SessionSnapshotInfo>& infos) {
    std::vector<SessionId> listed;
    for (const auto& info : infos) listed.push_back(info.id);
    return listed;
  };
  std::map<SessionTier, int> tiers;
  const std::vector<SessionSnapshotInfo> all = pages();
  EXPECT_EQ(ids_of(all), ids);
  for (const SessionSnapshotInfo& info : all) {
    ++tiers[info.tier];
    EXPECT_EQ(info.context_tokens, 3);
  }
  EXPECT_EQ(tiers.size(), 3U);
  // A server that has had none of them.
  Restart(StoreOptions());
  clock.Advance(absl::Seconds(7));
  const std::vector<SessionSnapshotInfo> stored = pages();
  EXPECT_EQ(ids_of(stored), ids);
  for (const SessionSnapshotInfo& info : stored) {
    EXPECT_EQ(info.tier, SessionTier::kDisk);
    EXPECT_EQ(info.ttl, all[0].ttl);
    EXPECT_GE(info.idle, absl::Seconds(7));
  }
  // One that is closed is gone at once, though its removal waits.
  engine->Close("alice", ids[5], [](auto info) { EXPECT_THAT(info, IsOk()); });
  for (int i = 0; i < 100; ++i) {
    keeper->StepReader();
    engine->Tick();
  }
  ids.erase(ids.begin() + 5);
  EXPECT_EQ(ids_of(pages()), ids);
}

TEST_F(TiersTest, AWaitingCallerMayGoAndADeadlineIsKept) {
  Start(StoreOptions());
  std::vector<Known> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(OpenKnown());
    Turn(sessions.back(), {i + 1}, 2);
  }
  ASSERT_EQ(TierOf(sessions[0]), SessionTier::kDisk);
  GenerateSpec late = TurnOf(sessions[0], {9}, 3);
  late.deadline = clock.Monotonic() + absl::Seconds(1);
  Reader overdue = Generate(late);
  Reader gone = Generate(TurnOf(sessions[0], {9}, 3));
  Reader cancelled = Generate(TurnOf(sessions[0], {9}, 3));
  engine->Tick();  // the store has not answered
  engine->Cancel(gone.stream(), /*by_client=*/false);
  engine->Cancel(cancelled.stream(), /*by_client=*/true);
  clock.Advance(absl::Seconds(2));
  engine->Tick();
  overdue.Read();
  EXPECT_THAT(overdue.status, Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, _)));
  gone.Read();
  EXPECT_THAT(gone.status, Optional(StatusIs(absl::StatusCode::kCancelled, _)));
  cancelled.Read();
  EXPECT_THAT(cancelled.status, Optional(IsOk()));
  ASSERT_EQ(cancelled.finished.size(), 1u);
  EXPECT_EQ(cancelled.finished[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(engine->GetStatus().requests_waiting, 0);
  Turn(sessions[0], {3}, 2);
}

}  // namespace
}  // namespace gma::testing
