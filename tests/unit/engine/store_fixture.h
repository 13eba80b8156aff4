// An engine with a store of files, whose work is done when the test says so; it can be killed.
#ifndef GMA_TESTS_UNIT_ENGINE_STORE_FIXTURE_H_
#define GMA_TESTS_UNIT_ENGINE_STORE_FIXTURE_H_

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/engine/keeper.h"
#include "server/store/file_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {

class StoreTest : public EngineTest {
 protected:
  static size_t RowBytes() { return FakeDecoder(1, 1).state_layout().row_bytes(); }

  static EngineOptions StoreOptions() {
    EngineOptions options = DefaultOptions();
    options.max_sessions = 4;
    options.max_waiting = 1000;
    options.max_sessions_per_owner = 10'000;
    options.park_memory_bytes = static_cast<int64_t>(8 * RowBytes());
    options.past = {.checkpoint_bytes = 0, .checkpoint_tokens = 0, .rewind_tokens = 1000};
    options.resume_window = absl::Seconds(60);
    options.durability = Durability::kInterval;
    return options;
  }

  // Starts an engine on the store's directory as it is.
  void Start(const EngineOptions& options) {
    engine.reset();
    decoder = std::make_unique<FakeDecoder>(options.max_batch_rows, options.max_step_tokens);
    auto opened = FileStore::Open({.directory = directory}, clock);
    ASSERT_THAT(opened, IsOk());
    store = opened->get();
    auto made =
        std::make_unique<Keeper>(KeeperOptions{.scope = {.key = key,
                                                         .fingerprint = std::string(64, 'a'),
                                                         .layout = decoder->state_layout(),
                                                         .vocab_size = kFakeVocab},
                                               .encoding = options.park_format,
                                               .threads = false},
                                 *std::move(opened), clock, *metrics);
    keeper = made.get();
    auto created =
        Engine::Create(options, *decoder, FakeTokenText, clock, *metrics, std::move(made));
    ASSERT_THAT(created, IsOk());
    engine = *std::move(created);
  }
  // As after kill -9: what was not written is gone. Then starts again.
  void Kill(const EngineOptions& options) {
    const std::string survives = dir.File(std::to_string(++lives_));
    std::filesystem::copy(directory, survives, std::filesystem::copy_options::recursive);
    engine.reset();
    directory = survives;
    Start(options);
  }
  // As after SIGTERM.
  void Restart(const EngineOptions& options) {
    engine->Shutdown();
    Start(options);
  }

  // Ticks and does the store's work until nothing is left to do.
  void Run(std::vector<Reader*> readers = {}) {
    for (int i = 0; i < 100'000; ++i) {
      bool busy = keeper->StepWriter();
      busy |= keeper->StepReader();
      busy |= engine->Tick();
      engine->CheckOwnership();
      for (Reader* reader : readers) reader->Read();
      if (!busy) return;
    }
    FAIL() << "the engine does not come to rest";
  }
  // The same until `done`.
  template <typename Done>
  void RunUntil(Done done, std::vector<Reader*> readers = {}) {
    for (int i = 0; i < 1000 && !done(); ++i) {
      keeper->StepWriter();
      keeper->StepReader();
      engine->Tick();
      engine->CheckOwnership();
      for (Reader* reader : readers) reader->Read();
    }
    ASSERT_TRUE(done());
  }
  void ReadTokens(Reader& reader, size_t tokens) {
    RunUntil([&] { return reader.token_count() >= tokens; }, {&reader});
  }
  template <typename T, typename Call>
  absl::StatusOr<T> Ask(Call call) {
    std::optional<absl::StatusOr<T>> answer;
    call([&](absl::StatusOr<T> result) { answer = std::move(result); });
    for (int i = 0; i < 10'000 && !answer; ++i) {
      keeper->StepWriter();
      keeper->StepReader();
      engine->Tick();
    }
    EXPECT_TRUE(answer.has_value());
    return *std::move(answer);
  }
  using Info = absl::StatusOr<SessionSnapshotInfo>;
  Info OpenNow(std::string owner = "alice", absl::Duration ttl = absl::ZeroDuration()) {
    return Ask<SessionSnapshotInfo>(
        [&](auto done) { engine->Open({.owner = owner, .ttl = ttl}, std::move(done)); });
  }
  Info Info_(const SessionId& id, std::string owner = "alice") {
    return Ask<SessionSnapshotInfo>([&](auto done) { engine->Get(owner, id, std::move(done)); });
  }

  // A session and all the tokens that it is to hold.
  struct Known {
    SessionId id;
    std::vector<int32_t> tokens;
    int64_t last_sequence = 0;
  };
  Known OpenKnown() {
    const auto info = OpenNow();
    EXPECT_THAT(info, IsOk());
    return {.id = info->id, .tokens = {}};
  }
  GenerateSpec TurnOf(const Known& session, const std::vector<int32_t>& prompt, int64_t count) {
    GenerateSpec spec = On(session.id, Greedy(prompt, count));
    spec.after = session.last_sequence;
    return spec;
  }
  // A whole turn, whose answer must be what a session that read those tokens alone would say.
  void Turn(Known& session, const std::vector<int32_t>& prompt, int64_t count) {
    const GenerateSpec spec = TurnOf(session, prompt, count);
    Reader reader = Generate(spec);
    Run({&reader});
    ASSERT_THAT(reader.status, ::testing::Optional(IsOk()));
    Take(session, spec, reader.tokens());
  }
  // What `spec` has answered, all of it.
  void Take(Known& session, const GenerateSpec& spec, const std::vector<int32_t>& answer) {
    session.tokens.insert(session.tokens.end(), spec.input.tokens.begin(), spec.input.tokens.end());
    EXPECT_EQ(answer, AnswerOf({}, session.tokens, spec.sampling, spec.stop).tokens);
    session.tokens.insert(session.tokens.end(), answer.begin(), answer.end());
    session.last_sequence += static_cast<int64_t>(answer.size()) + 2;
  }

  TempDir dir;
  std::string directory = dir.File("0");
  const StateKey key = StateKey::Random();
  Keeper* keeper = nullptr;
  SessionStore* store = nullptr;

 private:
  int lives_ = 0;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_ENGINE_STORE_FIXTURE_H_
