// Rewind, fork and input while generating, with the real tiny models and the cpu decoder: the bytes
// of the state row, and the tokens that follow, are those of a session that read the same tokens in
// one pass.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/model_dir.h"
#include "model/decoder/compiled_decoder.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using testing::IsOk;

// Lets a test see the bytes of the rows that were fed last.
class WatchedDecoder final : public CompiledDecoder {
 public:
  explicit WatchedDecoder(std::unique_ptr<CompiledDecoder> decoder)
      : decoder_(std::move(decoder)) {}

  absl::Status Step(const StepBatch& batch, StatePool& pool, absl::Span<float> logits) override {
    pool_ = &pool;
    last_row_ = batch.rows.front().state_row;
    return decoder_->Step(batch, pool, logits);
  }
  const StateLayout& state_layout() const override { return decoder_->state_layout(); }
  size_t weight_bytes() const override { return decoder_->weight_bytes(); }
  int32_t vocab_size() const override { return decoder_->vocab_size(); }

  int32_t last_row() const { return last_row_; }
  std::vector<uint8_t> BytesOf(int32_t row) {
    const absl::Span<uint8_t> bytes = pool_->row(row);
    return {bytes.begin(), bytes.end()};
  }

 private:
  std::unique_ptr<CompiledDecoder> decoder_;
  StatePool* pool_ = nullptr;
  int32_t last_row_ = -1;
};

class PastModelTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kError);
    absl::StatusOr<ModelDir> model =
        ModelDir::Open(std::string(GMA_SOURCE_DIR) + "/deploy/models/tiny/" + GetParam(), {});
    ASSERT_THAT(model, IsOk());
    model_ = std::make_unique<ModelDir>(*std::move(model));
    GMA_ASSERT_OK_AND_ASSIGN(
        auto decoder,
        CompiledDecoder::Load(*model_, {.max_batch_rows = 4, .max_step_tokens = 24, .threads = 2}));
    decoder_ = std::make_unique<WatchedDecoder>(std::move(decoder));
    EngineOptions options;
    options.max_sessions = options.max_batch_rows = 4;
    options.max_step_tokens = 24;
    options.past = {.checkpoint_bytes = 64 << 20, .checkpoint_tokens = 50, .rewind_tokens = 1000};
    options.stream_capacity = 512;
    GMA_ASSERT_OK_AND_ASSIGN(
        engine_, Engine::Create(
                     options, *decoder_, [](int32_t) { return "x"; }, clock_, *metrics_));
  }

  template <typename T, typename Call>
  T Ask(Call call) {
    std::optional<absl::StatusOr<T>> answer;
    call([&](absl::StatusOr<T> result) { answer = std::move(result); });
    while (!answer) engine_->Tick();
    EXPECT_THAT(*answer, IsOk());
    return **std::move(answer);
  }
  SessionId Open() {
    return Ask<SessionSnapshotInfo>(
               [&](auto done) { engine_->Open({.owner = "a"}, std::move(done)); })
        .id;
  }
  // Returns the row of the session, if there was something to feed.
  int32_t Feed(const SessionId& id, std::vector<int32_t> tokens) {
    AppendSpec spec{.owner = "a", .session = id, .input = {}};
    spec.input.tokens = std::move(tokens);
    Ask<SessionSnapshotInfo>([&](auto done) { engine_->Append(spec, std::move(done)); });
    return decoder_->last_row();
  }
  void Rewind(const SessionId& id, RewindTarget target) {
    Ask<SessionSnapshotInfo>([&](auto done) {
      engine_->Rewind({.owner = "a", .session = id, .target = target}, std::move(done));
    });
  }
  static GenerateSpec Answer(const SessionId& id, std::vector<int32_t> prompt, int64_t count) {
    GenerateSpec spec;
    spec.owner = "a";
    spec.session = id;
    spec.input.tokens = std::move(prompt);
    spec.sampling.seed = 3;
    spec.stop.max_tokens = count;
    spec.stop.ignore_eos = true;
    return spec;
  }
  std::vector<int32_t> Say(const SessionId& id, std::vector<int32_t> prompt, int64_t count) {
    auto stream = engine_->Generate(Answer(id, std::move(prompt), count), nullptr);
    EXPECT_THAT(stream, IsOk());
    std::vector<int32_t> tokens;
    std::vector<StreamEvent> events;
    std::optional<absl::Status> end;
    while (!end) {
      engine_->Tick();
      end = (*stream)->TakeAll(events);
      for (const StreamEvent& event : events) {
        if (const auto* token = std::get_if<TokenEvent>(&event)) {
          tokens.push_back(token->sampled.token);
        }
      }
    }
    EXPECT_THAT(*end, IsOk());
    return tokens;
  }

  RealClock clock_;
  std::unique_ptr<Metrics> metrics_ = Metrics::Create({"tiny", "", "", "", ""});
  std::unique_ptr<ModelDir> model_;
  std::unique_ptr<WatchedDecoder> decoder_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(PastModelTest, ARewoundStateHasTheBytesOfOneThatReadNoMore) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 170; ++i) tokens.push_back((i * 37 + i * i) % 256);
  const SessionId id = Open();
  const int32_t row = Feed(id, {tokens.begin(), tokens.begin() + 90});
  const std::vector<int32_t> drawn = Say(id, {tokens.begin() + 90, tokens.end()}, 40);
  tokens.insert(tokens.end(), drawn.begin(), drawn.end());
  // Backwards, so that each is still there; among them ends of turns, ring edges and checkpoints.
  for (const int64_t position : {209, 190, 171, 170, 140, 128, 91, 90, 65, 64, 51, 50, 2}) {
    Rewind(id, position);
    const SessionId fresh = Open();
    const std::vector<int32_t> kept(tokens.begin(), tokens.begin() + position);
    const int32_t fresh_row = Feed(fresh, kept);
    ASSERT_NE(fresh_row, row);
    EXPECT_TRUE(decoder_->BytesOf(row) == decoder_->BytesOf(fresh_row)) << position;
    // From a copy, so that the session can go back further.
    const SessionId fork =
        Ask<SessionSnapshotInfo>([&](auto done) { engine_->Fork("a", id, std::move(done)); }).id;
    EXPECT_EQ(Say(fork, {7, 8}, 12), Say(fresh, {7, 8}, 12)) << position;
    for (const SessionId& session : {fork, fresh}) {
      Ask<SessionSnapshotInfo>([&](auto done) { engine_->Close("a", session, std::move(done)); });
    }
  }
  Rewind(id, int64_t{0});
  for (const uint8_t byte : decoder_->BytesOf(row)) ASSERT_EQ(byte, 0);
}

TEST_P(PastModelTest, AForkHasTheBytesOfItsSource) {
  const SessionId id = Open();
  std::vector<int32_t> tokens(100, 5);
  const int32_t row = Feed(id, tokens);
  const SessionId fork =
      Ask<SessionSnapshotInfo>([&](auto done) { engine_->Fork("a", id, std::move(done)); }).id;
  const std::vector<int32_t> said = Say(fork, {9}, 20);
  const int32_t fork_row = decoder_->last_row();
  ASSERT_NE(fork_row, row);
  EXPECT_EQ(Say(id, {9}, 20), said);
  EXPECT_TRUE(decoder_->BytesOf(row) == decoder_->BytesOf(fork_row));
}

// An answer in parts, between which input entered it.
struct Interleaved {
  struct Part {
    size_t begin;  // in `all`
    std::vector<int32_t> drawn;
  };
  std::vector<int32_t> all;  // of the session
  std::vector<Part> parts;
  std::vector<std::vector<int32_t>> inputs;

  void Take(const std::vector<StreamEvent>& events) {
    for (const StreamEvent& event : events) {
      if (const auto* token = std::get_if<TokenEvent>(&event)) {
        all.push_back(token->sampled.token);
        parts.back().drawn.push_back(token->sampled.token);
      } else if (std::holds_alternative<AppendedEvent>(event)) {
        const std::vector<int32_t>& input = inputs.at(parts.size() - 1);
        all.insert(all.end(), input.begin(), input.end());
        parts.push_back({all.size(), {}});
      }
    }
  }
};

TEST_P(PastModelTest, InputThatEntersAnAnswerLeavesTheBytesOfOnePass) {
  const SessionId id = Open();
  GenerateSpec spec = Answer(id, {5, 6, 7}, 90);
  Interleaved said = {.all = spec.input.tokens, .parts = {{3, {}}}, .inputs = {}};
  GMA_ASSERT_OK_AND_ASSIGN(const std::shared_ptr<TokenStream> stream,
                           engine_->Generate(std::move(spec), nullptr));
  std::vector<StreamEvent> events;
  while (!stream->TakeAll(events)) {
    said.Take(events);
    // From one token to more than a step can take.
    const size_t inputs = said.inputs.size();
    if (inputs < 4 && said.parts.size() == inputs + 1 && said.parts.back().drawn.size() == 17) {
      said.inputs.emplace_back(1 + 20 * inputs, static_cast<int32_t>(30 + inputs));
      AppendSpec append{.owner = "a", .session = id, .input = {}};
      append.input.tokens = said.inputs.back();
      append.turn = stream;
      engine_->Append(append, [](const absl::StatusOr<SessionSnapshotInfo>& info) {
        ASSERT_THAT(info, IsOk());
        EXPECT_TRUE(info->entered_turn);
      });
    }
    engine_->Tick();
  }
  said.Take(events);
  ASSERT_EQ(said.parts.size(), 5u);
  const int32_t row = decoder_->last_row();
  for (const Interleaved::Part& part : said.parts) {
    const SessionId fresh = Open();
    Feed(fresh, {said.all.begin(), said.all.begin() + static_cast<ptrdiff_t>(part.begin)});
    EXPECT_EQ(Say(fresh, {}, static_cast<int64_t>(part.drawn.size())), part.drawn);
    Ask<SessionSnapshotInfo>([&](auto done) { engine_->Close("a", fresh, std::move(done)); });
  }
  const SessionId fresh = Open();
  const int32_t fresh_row = Feed(fresh, said.all);
  ASSERT_NE(fresh_row, row);
  EXPECT_TRUE(decoder_->BytesOf(row) == decoder_->BytesOf(fresh_row));
  EXPECT_EQ(Say(id, {7, 8}, 12), Say(fresh, {7, 8}, 12));
}

INSTANTIATE_TEST_SUITE_P(Tiny, PastModelTest,
                         ::testing::Values("converted", "from_scratch", "plain"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace gma
