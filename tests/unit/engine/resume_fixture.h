// Turns, readers and numbers of sessions that wait for readers to come back.
#ifndef GMA_TESTS_UNIT_ENGINE_RESUME_FIXTURE_H_
#define GMA_TESTS_UNIT_ENGINE_RESUME_FIXTURE_H_

#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {

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
    EXPECT_THAT(second.status, ::testing::Optional(IsOk()));
  }
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_ENGINE_RESUME_FIXTURE_H_
