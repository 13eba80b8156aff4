// An engine on a fake clock and a fake decoder, driven tick by tick.
#ifndef GMA_TESTS_UNIT_ENGINE_ENGINE_FIXTURE_H_
#define GMA_TESTS_UNIT_ENGINE_ENGINE_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "gtest/gtest.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/oracle.h"

namespace gma::testing {

// Collects what a stream says.
class Reader {
 public:
  Reader() = default;
  explicit Reader(std::shared_ptr<TokenStream> stream) : stream_(std::move(stream)) {}

  const std::shared_ptr<TokenStream>& stream() const { return stream_; }
  // Takes everything that is there.
  void Read() {
    std::vector<StreamEvent> events;
    if (auto closed = stream_->TakeAll(events); closed && !status) status = closed;
    for (StreamEvent& event : events) {
      sequences.push_back(SequenceOf(event));
      if (auto* started = std::get_if<StartedEvent>(&event)) {
        seed = started->seed;
      } else if (auto* token = std::get_if<TokenEvent>(&event)) {
        const size_t candidate = static_cast<size_t>(token->candidate);
        if (answers.size() <= candidate) answers.resize(candidate + 1);
        answers[candidate].tokens.push_back(token->sampled.token);
        answers[candidate].text += token->text;
      } else if (auto* input = std::get_if<AppendedEvent>(&event)) {
        appended_after.push_back(token_count());
        if (answers.empty()) answers.resize(1);
        answers[0].text += input->text;
        appended.push_back(std::move(*input));
      } else {
        auto& end = std::get<FinishedEvent>(event);
        const size_t candidate = static_cast<size_t>(end.candidate);
        if (answers.size() <= candidate) answers.resize(candidate + 1);
        answers[candidate].text += end.text;
        answers[candidate].reason = end.reason;
        finished.push_back(std::move(end));
      }
    }
  }
  // What was read stays.
  void GoOnWith(std::shared_ptr<TokenStream> stream) { stream_ = std::move(stream); }
  const std::vector<int32_t>& tokens() const { return answers.at(0).tokens; }
  size_t token_count() const { return answers.empty() ? 0 : answers[0].tokens.size(); }

  std::optional<uint64_t> seed;
  std::vector<ExpectedAnswer> answers;  // by candidate
  std::vector<FinishedEvent> finished;
  std::vector<AppendedEvent> appended;
  std::vector<size_t> appended_after;  // tokens that came before each of them
  std::vector<int64_t> sequences;      // of all events
  std::optional<absl::Status> status;  // once the stream ended

 private:
  std::shared_ptr<TokenStream> stream_;
};

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() { SetLogLevel(LogLevel::kError); }

  static EngineOptions DefaultOptions() {
    return {.max_sessions = 8,
            .max_waiting = 16,
            .max_sessions_per_owner = 8,
            .max_batch_rows = 4,
            .max_step_tokens = 8,
            .default_ttl = absl::Minutes(30),
            .stream_capacity = 32,
            .end_tokens = {kFakeEndToken}};
  }

  void StartEngine(const EngineOptions& options = DefaultOptions()) {
    decoder = std::make_unique<FakeDecoder>(options.max_batch_rows, options.max_step_tokens);
    auto created = Engine::Create(options, *decoder, FakeTokenText, clock, *metrics);
    ASSERT_TRUE(created.ok()) << created.status().ToString();
    engine = *std::move(created);
  }

  // Ticks until there is nothing more to do, reading along.
  void RunToIdle(std::vector<Reader*> readers = {}) {
    for (int i = 0; i < 10'000; ++i) {
      const bool busy = engine->Tick();
      engine->CheckOwnership();
      for (Reader* reader : readers) reader->Read();
      if (!busy) return;
    }
    FAIL() << "the engine does not come to rest";
  }

  static GenerateSpec Greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
    GenerateSpec spec;
    spec.owner = "alice";
    spec.input.tokens = std::move(prompt);
    spec.sampling.temperature = 0;
    spec.stop.max_tokens = max_tokens;
    spec.stop.ignore_eos = true;
    return spec;
  }
  static GenerateSpec On(const SessionId& session, GenerateSpec spec) {
    spec.session = session;
    return spec;
  }

  Reader Generate(GenerateSpec spec) {
    auto stream = engine->Generate(std::move(spec), nullptr);
    EXPECT_TRUE(stream.ok()) << stream.status().ToString();
    return stream.ok() ? Reader(*stream) : Reader();
  }
  // Calls that are answered by the next tick.
  absl::StatusOr<SessionSnapshotInfo> Open(absl::Duration ttl = absl::ZeroDuration(),
                                           std::string owner = "alice") {
    std::optional<absl::StatusOr<SessionSnapshotInfo>> answer;
    engine->Open({.owner = std::move(owner), .ttl = ttl},
                 [&](auto info) { answer = std::move(info); });
    if (!answer) engine->Tick();
    EXPECT_TRUE(answer.has_value());
    return *std::move(answer);
  }
  absl::StatusOr<SessionSnapshotInfo> Get(const SessionId& id, std::string owner = "alice") {
    std::optional<absl::StatusOr<SessionSnapshotInfo>> answer;
    engine->Get(std::move(owner), id, [&](auto info) { answer = std::move(info); });
    if (!answer) engine->Tick();
    EXPECT_TRUE(answer.has_value());
    return *std::move(answer);
  }
  absl::StatusOr<SessionSnapshotInfo> CloseSession(const SessionId& id,
                                                   std::string owner = "alice") {
    std::optional<absl::StatusOr<SessionSnapshotInfo>> answer;
    engine->Close(std::move(owner), id, [&](auto info) { answer = std::move(info); });
    if (!answer) engine->Tick();
    EXPECT_TRUE(answer.has_value());
    return *std::move(answer);
  }
  // Answered when it is fed.
  std::shared_ptr<std::optional<absl::StatusOr<SessionSnapshotInfo>>> Append(AppendSpec spec) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<SessionSnapshotInfo>>>();
    engine->Append(std::move(spec), [answer](auto info) { *answer = std::move(info); });
    return answer;
  }

  FakeClock clock;
  std::unique_ptr<Metrics> metrics = Metrics::Create({"fake", "", "", "", ""});
  std::unique_ptr<FakeDecoder> decoder;
  std::unique_ptr<Engine> engine;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_ENGINE_ENGINE_FIXTURE_H_
