// What cannot be written down, what nobody waits for any more, and what has no room.
#include "base/failpoint.h"
#include "tests/unit/engine/store_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::Optional;

class UnwrittenTest : public StoreTest {
 protected:
  ~UnwrittenTest() override { ClearFailpoints(); }

  static EngineOptions Always() {
    EngineOptions options = StoreOptions();
    options.durability = Durability::kAlways;
    return options;
  }
  // The rest of the turn `spec`, of which `first` had the beginning.
  void ExpectRest(Known& session, GenerateSpec spec, const Reader& first) {
    const GenerateSpec whole = spec;
    spec.after = first.sequences.back();
    Reader rest = Generate(std::move(spec));
    Run({&rest});
    ASSERT_THAT(rest.status, Optional(IsOk()));
    EXPECT_TRUE(rest.appended.empty());
    std::vector<int32_t> answer = first.tokens();
    answer.insert(answer.end(), rest.tokens().begin(), rest.tokens().end());
    Take(session, whole, answer);
  }
};

TEST_F(UnwrittenTest, AlwaysTellsNoEndThatIsNotWritten) {
  for (const Durability durability : {Durability::kInterval, Durability::kAlways}) {
    EngineOptions options = Always();
    options.durability = durability;
    options.max_step_tokens = 1;
    Start(options);
    Known session = OpenKnown();
    Turn(session, {3, 4}, 3);
    GenerateSpec spec = TurnOf(session, {5}, 12);
    spec.request_key = "turn";
    Reader reader = Generate(spec);
    ReadTokens(reader, 3);
    ASSERT_THAT(SetFailpoints("store.write=ENOSPC"), IsOk());
    engine->Cancel(reader.stream(), /*by_client=*/true);
    Run({&reader});
    ClearFailpoints();
    if (durability == Durability::kInterval) {
      EXPECT_THAT(reader.status, Optional(IsOk()));
      EXPECT_EQ(reader.finished.size(), 1);
      continue;
    }
    EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kUnavailable, _)));
    EXPECT_TRUE(reader.finished.empty());
    // As after a kill: the turn goes on where its reader has it.
    ExpectRest(session, spec, reader);
    Kill(options);
    Turn(session, {6}, 3);
  }
}

TEST_F(UnwrittenTest, AlwaysForgetsInputThatIsNotWritten) {
  EngineOptions options = Always();
  options.max_step_tokens = 1;
  Start(options);
  Known session = OpenKnown();
  GenerateSpec spec = TurnOf(session, {5, 6}, 12);
  spec.request_key = "turn";
  Reader reader = Generate(spec);
  ReadTokens(reader, 3);
  ASSERT_THAT(SetFailpoints("store.write=ENOSPC"), IsOk());
  AppendSpec input{.owner = "alice", .session = session.id, .input = {.tokens = {7, 8}}};
  input.turn = reader.stream();
  engine->Append(std::move(input), [](const auto&) {});
  Run({&reader});
  ClearFailpoints();
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kUnavailable, _)));
  EXPECT_TRUE(reader.appended.empty());
  ExpectRest(session, spec, reader);
  Turn(session, {6}, 3);
}

TEST_F(UnwrittenTest, AlwaysForgetsARewindThatIsNotWritten) {
  const EngineOptions options = Always();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  ASSERT_THAT(SetFailpoints("store.write=ENOSPC"), IsOk());
  EXPECT_THAT(Ask<SessionSnapshotInfo>([&](auto done) {
                engine->Rewind({.owner = "alice", .session = session.id, .target = int64_t{2}},
                               std::move(done));
              }),
              StatusIs(absl::StatusCode::kUnavailable, _));
  ClearFailpoints();
  EXPECT_EQ(Info_(session.id)->context_tokens, static_cast<int64_t>(session.tokens.size()));
  Turn(session, {6}, 3);
}

TEST_F(UnwrittenTest, AnAppendWhoseCallerIsGoneIsNotBegun) {
  const EngineOptions options = StoreOptions();
  Start(options);
  Known session = OpenKnown();
  Turn(session, {3, 4}, 3);
  Kill(options);
  std::optional<absl::Status> append, rewind;
  AppendSpec spec{.owner = "alice", .session = session.id, .input = {.tokens = {5}}};
  spec.abandoned = [] { return true; };
  engine->Append(std::move(spec), [&](const auto& info) { append = info.status(); });
  RewindSpec back{.owner = "alice", .session = session.id, .target = int64_t{1}};
  back.abandoned = [] { return true; };
  engine->Rewind(std::move(back), [&](const auto& info) { rewind = info.status(); });
  Run();
  EXPECT_THAT(append, Optional(StatusIs(absl::StatusCode::kCancelled, HasSubstr("gone"))));
  EXPECT_THAT(rewind, Optional(StatusIs(absl::StatusCode::kCancelled, HasSubstr("gone"))));
  Turn(session, {6}, 3);
}

TEST_F(UnwrittenTest, CheckpointsOfOthersMakeRoomForASessionWithOne) {
  EngineOptions options = StoreOptions();
  options.past.checkpoint_bytes = RowBytes();
  options.park_memory_bytes = static_cast<int64_t>(4 * RowBytes());
  Start(options);
  const auto open_and_keep = [&] {
    Known session = OpenKnown();
    Turn(session, {3, 4}, 3);
    EXPECT_THAT(Ask<CheckpointInfo>([&](auto done) {
                  engine->Checkpoint("alice", session.id, "kept", std::move(done));
                }),
                IsOk());
    return session;
  };
  Known first = open_and_keep();
  Kill(options);
  for (int i = 0; i < 3; ++i) open_and_keep();
  EXPECT_THAT(Info_(first.id), StatusIs(absl::StatusCode::kResourceExhausted, _));
  Run();
  Turn(first, {5}, 3);
}

}  // namespace
}  // namespace gma::testing
