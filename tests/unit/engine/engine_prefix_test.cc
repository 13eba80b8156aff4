// Prefix reuse: a request that begins where another one has been answers as one that read it all,
// and reads what is new alone.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using Tokens = std::vector<int32_t>;

class PrefixTest : public EngineTest {
 protected:
  static EngineOptions PrefixOptions(size_t bytes = 1 << 20) {
    EngineOptions options = DefaultOptions();
    options.past.rewind_tokens = 10'000;
    options.prefix_bytes = bytes;
    return options;
  }
  void SetUp() override { StartEngine(PrefixOptions()); }

  static Tokens Text(int32_t seed, size_t count) {
    Tokens tokens(count);
    for (size_t i = 0; i < count; ++i) {
      tokens[i] = static_cast<int32_t>((static_cast<size_t>(seed) + 7 * i + i * i) % kFakeVocab);
    }
    return tokens;
  }
  static Tokens Join(Tokens head, const Tokens& tail) {
    head.insert(head.end(), tail.begin(), tail.end());
    return head;
  }
  static Tokens First(const Tokens& tokens, size_t count) {
    return {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(count)};
  }
  // Runs the request; its answers must be those of its prompt alone. Returns how many tokens it
  // found again; all others, and no more, must have been fed.
  int64_t Run(GenerateSpec spec) {
    const int64_t fed_before = decoder->tokens_fed();
    Reader reader = Generate(spec);
    RunToIdle({&reader});
    const Tokens feed = Join(spec.input.opening_tokens, spec.input.tokens);
    int64_t drawn = 0;
    for (int32_t i = 0; i < spec.n; ++i) {
      SamplingParams sampling = spec.sampling;
      sampling.seed += static_cast<uint64_t>(i);
      const ExpectedAnswer expected = AnswerOf(FakeState(), feed, sampling, spec.stop);
      const size_t answer = static_cast<size_t>(i);
      EXPECT_EQ(reader.answers.at(answer).tokens, expected.tokens);
      drawn += static_cast<int64_t>(expected.tokens.size()) - 1;
    }
    EXPECT_EQ(reader.finished.size(), static_cast<size_t>(spec.n));
    last_answer = reader.answers.at(0).tokens;
    const RequestUsage usage = reader.finished.at(0).usage;
    EXPECT_EQ(usage.prompt_tokens, static_cast<int64_t>(feed.size()));
    EXPECT_EQ(decoder->tokens_fed() - fed_before,
              static_cast<int64_t>(feed.size()) - usage.cached_tokens + drawn);
    return usage.cached_tokens;
  }
  // A private request of a chat: three messages and an answer's beginning.
  GenerateSpec Chat(std::string owner = "alice") {
    GenerateSpec spec = Greedy(chat, 20);
    spec.owner = std::move(owner);
    spec.input.marks = {20, 41};
    return spec;
  }
  RowBytes RowOf(const SessionId& id) {
    std::optional<absl::StatusOr<SessionImage>> image;
    engine->Export("alice", id, [&](auto answer) { image = std::move(answer); });
    engine->Tick();
    return (*image)->row;
  }

  const Tokens chat = Text(3, 70);
  Tokens last_answer;
};

TEST_F(PrefixTest, EveryEntryIsFoundAgainAndLeavesTheSameStateAndAnswer) {
  EXPECT_EQ(Run(Chat()), 0);
  const Tokens all = Join(chat, last_answer);
  // What was kept: system prompt, history, prompt, and answer without its last token.
  const struct {
    size_t same;     // tokens in which the next request agrees
    int64_t cached;  // that it finds
  } kCases[] = {{19, 0},  {20, 20}, {21, 20}, {40, 20}, {41, 41}, {50, 41},
                {69, 41}, {70, 70}, {75, 70}, {88, 70}, {89, 89}, {90, 89}};
  for (const auto& [same, cached] : kCases) {
    const Tokens text = Join(First(all, same), {5, 6, 7, 8, 9, 10});
    // As a session's first turn: its row, then, is that of an engine that keeps no prefixes.
    StartEngine(PrefixOptions());
    Run(Chat());
    const SessionId found = Open()->id;
    Reader reader = Generate(On(found, Greedy(text, 5)));
    RunToIdle({&reader});
    EXPECT_EQ(reader.finished.at(0).usage.cached_tokens, cached) << same;
    EXPECT_EQ(reader.finished.at(0).usage.prompt_tokens, static_cast<int64_t>(text.size()));
    const RowBytes row = RowOf(found);
    StartEngine(PrefixOptions(0));
    const SessionId cold = Open()->id;
    Reader cold_reader = Generate(On(cold, Greedy(text, 5)));
    RunToIdle({&cold_reader});
    EXPECT_EQ(reader.tokens(), cold_reader.tokens()) << same;
    EXPECT_EQ(row, RowOf(cold)) << same;
    // As a private request.
    StartEngine(PrefixOptions());
    Run(Chat());
    EXPECT_EQ(Run(Greedy(text, 5)), cached) << same;
  }
}

TEST_F(PrefixTest, TheSamePromptIsReadAgainFromItsLastMark) {
  EXPECT_EQ(Run(Chat()), 0);
  EXPECT_EQ(Run(Chat()), 41);
  EXPECT_EQ(metrics->prefix_hits->Value(), 1);
  EXPECT_EQ(metrics->prefix_misses->Value(), 1);
  EXPECT_EQ(metrics->prefix_tokens_saved->Value(), 41);
}

TEST_F(PrefixTest, AFreshChatBeginsWithTheModelsOpening) {
  GenerateSpec spec = Greedy(Text(1, 30), 3);
  spec.input.opening_tokens = Text(2, 25);
  EXPECT_EQ(Run(spec), 0);
  spec.input.tokens = Text(9, 30);
  EXPECT_EQ(Run(spec), 25);
}

TEST_F(PrefixTest, SeveralAnswersBeginWithOneMatch) {
  Run(Chat());
  GenerateSpec spec = Chat();
  spec.sampling.temperature = 1;
  spec.sampling.seed = 5;
  spec.n = 3;
  EXPECT_EQ(Run(spec), 41);
}

TEST_F(PrefixTest, OwnersNeverFindEachOthersStates) {
  EXPECT_EQ(Run(Chat("alice")), 0);
  EXPECT_EQ(Run(Chat("bob")), 0);
  EXPECT_EQ(Run(Chat("bob")), 41);
}

TEST_F(PrefixTest, ThePastOfASessionIsFoundAfterEachOfItsTurns) {
  const SessionId session = Open()->id;
  Tokens all;
  for (int turn = 0; turn < 3; ++turn) {
    const Tokens prompt = Text(turn, 20);
    Reader reader = Generate(On(session, Greedy(prompt, 20)));
    RunToIdle({&reader});
    all = Join(Join(all, prompt), reader.tokens());
    EXPECT_EQ(Run(Greedy(Join(all, {1, 2, 3}), 2)), static_cast<int64_t>(all.size()) - 1);
  }
  AppendSpec append{.owner = "alice", .session = session, .input = {}};
  append.input.tokens = Text(8, 30);
  const auto done = Append(append);
  RunToIdle();
  EXPECT_TRUE((*done)->ok());
  all = Join(all, append.input.tokens);
  EXPECT_EQ(Run(Greedy(Join(all, {1, 2, 3}), 2)), static_cast<int64_t>(all.size()) - 1);
}

TEST_F(PrefixTest, AnAppendOfWhatWasFoundFeedsNothing) {
  Run(Greedy(Text(0, 30), 1));
  const int64_t steps = decoder->steps();
  const SessionId session = Open()->id;
  AppendSpec append{.owner = "alice", .session = session, .input = {}};
  append.input.tokens = Join(Text(0, 30), {9});
  const auto done = Append(append);
  engine->Tick();
  ASSERT_TRUE(done->has_value() && (*done)->ok());
  EXPECT_EQ((**done)->context_tokens, 31);
  EXPECT_EQ(decoder->steps(), steps);
  Reader reader = Generate(On(session, Greedy({1, 2}, 5)));
  RunToIdle({&reader});
  const GenerateSpec same = Greedy(Join(Text(0, 30), {9, 1, 2}), 5);
  EXPECT_EQ(reader.tokens(),
            AnswerOf(FakeState(), same.input.tokens, same.sampling, same.stop).tokens);
}

TEST_F(PrefixTest, ASessionThatBeganWithAMatchCanGoBackToAnyPlace) {
  Run(Chat());
  const SessionId session = Open()->id;
  Reader first = Generate(On(session, Greedy(Join(chat, {1, 2}), 4)));
  RunToIdle({&first});
  std::optional<absl::StatusOr<SessionSnapshotInfo>> back;
  engine->Rewind({.owner = "alice", .session = session, .target = int64_t{30}},
                 [&](auto answer) { back = std::move(answer); });
  RunToIdle();
  ASSERT_TRUE(back->ok());
  Reader reader = Generate(On(session, Greedy({4}, 5)));
  RunToIdle({&reader});
  const GenerateSpec same = Greedy(Join(First(chat, 30), {4}), 5);
  EXPECT_EQ(reader.tokens(),
            AnswerOf(FakeState(), same.input.tokens, same.sampling, same.stop).tokens);
}

TEST_F(PrefixTest, AFullCacheKeepsToItsBytesAndAnswersStayRight) {
  const size_t row = decoder->state_layout().row_bytes();
  const size_t limit = 16 * (row + 100 * sizeof(int32_t));
  StartEngine(PrefixOptions(limit));
  for (int32_t i = 0; i < 50; ++i) {
    GenerateSpec spec = Chat(i % 3 == 0 ? "bob" : "alice");
    spec.input.tokens = Join(Text(i % 2, 41), Text(i, 29));
    Run(spec);
    EXPECT_LE(metrics->prefix_bytes->Value(), static_cast<double>(limit));
  }
  // Each request leaves two states that no other can use; those of the system prompts stay.
  EXPECT_EQ(metrics->prefix_misses->Value(), 4);
}

TEST_F(PrefixTest, WithoutABudgetNothingIsKept) {
  StartEngine(PrefixOptions(0));
  EXPECT_EQ(Run(Chat()), 0);
  EXPECT_EQ(Run(Chat()), 0);
  EXPECT_EQ(metrics->prefix_misses->Value(), 0);
}

TEST_F(PrefixTest, ALostStepLeavesNothingBehind) {
  decoder->FailNextStep();
  Reader reader = Generate(Chat());
  RunToIdle({&reader});
  EXPECT_EQ(reader.status->code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Run(Chat()), 0);
}

}  // namespace
}  // namespace gma::testing
