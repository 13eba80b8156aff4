// Full duplex: input that enters an answer between two of its tokens, and barge-in. What comes of
// it must be what the same tokens in one pass give.
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::Optional;
using ::testing::SizeIs;

// Input, and after how many tokens of an answer it enters.
using Inputs = std::vector<std::pair<size_t, std::vector<int32_t>>>;
using Answer = std::shared_ptr<std::optional<absl::StatusOr<SessionSnapshotInfo>>>;

class DuplexTest : public EngineTest {
 protected:
  static EngineOptions DuplexOptions() {
    EngineOptions options = DefaultOptions();
    options.stream_capacity = 256;
    options.resume_window = absl::Seconds(60);
    options.past = {.checkpoint_bytes = 1 << 16, .checkpoint_tokens = 1000, .rewind_tokens = 1000};
    return options;
  }
  SessionId OpenOne() {
    auto info = Open();
    EXPECT_TRUE(info.ok());
    return info->id;
  }
  AppendSpec Into(const SessionId& id, const Reader& reader, std::vector<int32_t> tokens,
                  std::vector<int32_t> close = {}) {
    AppendSpec spec{.owner = "alice", .session = id, .input = {}};
    spec.input.tokens = std::move(tokens);
    spec.input.close_tokens = std::move(close);
    spec.turn = reader.stream();
    spec.request_id = 5;
    return spec;
  }
  Answer BargeIn(AppendSpec spec) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<SessionSnapshotInfo>>>();
    engine->CancelAndAppend(std::move(spec), [answer](auto info) { *answer = std::move(info); });
    return answer;
  }
  absl::StatusOr<SessionSnapshotInfo> Rewind(const SessionId& id, int64_t position) {
    std::optional<absl::StatusOr<SessionSnapshotInfo>> rewound;
    engine->Rewind({.owner = "alice", .session = id, .target = position},
                   [&](auto info) { rewound = std::move(info); });
    RunToIdle();
    return *std::move(rewound);
  }
  void ReadTokens(Reader& reader, size_t tokens) {
    for (int i = 0; i < 1000 && reader.token_count() < tokens; ++i) {
      engine->Tick();
      reader.Read();
    }
    ASSERT_GE(reader.token_count(), tokens);
  }
  static void Add(std::vector<int32_t>& to, const std::vector<int32_t>& tokens) {
    to.insert(to.end(), tokens.begin(), tokens.end());
  }
  // What the session says next is what one that read `tokens` alone would say.
  void ExpectHolds(const SessionId& id, std::vector<int32_t> tokens) {
    EXPECT_EQ(Get(id)->context_tokens, static_cast<int64_t>(tokens.size()));
    tokens.push_back(17);
    const GenerateSpec spec = On(id, Greedy({17}, 5));
    Reader reader = Generate(spec);
    RunToIdle({&reader});
    EXPECT_EQ(reader.tokens(), AnswerOf({}, tokens, spec.sampling, spec.stop).tokens);
  }
};

// An answer with inputs at given places, in one pass over the tokens: no engine, steps or rows.
struct OnePass {
  std::vector<int32_t> all;  // of the session in the end
  std::vector<int32_t> drawn;
  std::vector<int64_t> contexts;  // with each input
  std::string text;

  OnePass(const std::vector<int32_t>& prompt, const Inputs& inputs, const SamplingParams& sampling,
          const StopParams& stop)
      : all(prompt) {
    Sampler sampler(sampling, stop.min_tokens, {}, kFakeVocab);
    StopJudge judge(stop, {});
    sampler.ObservePrompt(prompt);
    FakeState state;
    size_t fed = 0, next_input = 0;
    std::vector<float> logits(kFakeVocab);
    while (true) {
      while (next_input < inputs.size() && inputs[next_input].first == drawn.size()) {
        const std::vector<int32_t>& input = inputs[next_input++].second;
        all.insert(all.end(), input.begin(), input.end());
        sampler.ObservePrompt(input);
        contexts.push_back(static_cast<int64_t>(all.size()));
        text += judge.Flush();
      }
      for (; fed < all.size(); ++fed) state.Feed(all[fed]);
      state.Logits(absl::MakeSpan(logits));
      const int32_t token = sampler.Sample(absl::MakeSpan(logits), fed)->token;
      all.push_back(token);
      drawn.push_back(token);
      const StopJudge::Verdict verdict = judge.Judge(token, FakeTokenText(token));
      text += verdict.text;
      if (verdict.reason != FinishReason::kNone) return;
    }
  }
};

class InterleavingTest : public DuplexTest {
 protected:
  std::vector<int32_t> Some(size_t most) {
    std::vector<int32_t> tokens(1 + random_() % most);
    for (int32_t& token : tokens) token = static_cast<int32_t>(1 + random_() % (kFakeVocab - 1));
    return tokens;
  }
  GenerateSpec SomeAnswer(const SessionId& id) {
    GenerateSpec spec = On(id, Greedy(Some(30), 1 + random_() % 40));
    spec.sampling.temperature = 0.8;
    spec.sampling.seed = random_();
    spec.sampling.repetition_penalty = 1.3;
    spec.sampling.frequency_penalty = 0.2;
    spec.stop.stop_strings = {"zz", std::string(FakeTokenText(7)) + "q"};
    return spec;
  }
  // Reads the answer to its end, with input at random points. Returns the input that entered it,
  // and after how many tokens; puts what came too late, and was an ordinary append, into `late`.
  Inputs Interleave(const SessionId& id, Reader& reader, std::vector<int32_t>& late) {
    std::vector<std::pair<Answer, std::vector<int32_t>>> appends;
    while (!reader.status) {
      if (random_() % 4 == 0 && appends.size() < 12) {
        std::vector<int32_t> input = Some(20);
        appends.emplace_back(Append(Into(id, reader, input)), input);
      }
      engine->Tick();
      engine->CheckOwnership();
      if (random_() % 3 == 0) reader.Read();
    }
    RunToIdle({&reader});
    Inputs inputs;
    for (auto& [answer, input] : appends) {
      if (!(**answer).ok()) {  // crossed another late one
        EXPECT_THAT(**answer, StatusIs(absl::StatusCode::kFailedPrecondition, _));
      } else if (!(**answer)->entered_turn) {
        Add(late, input);
      } else {
        inputs.emplace_back(reader.appended_after.at(inputs.size()), input);
      }
    }
    EXPECT_EQ(inputs.size(), reader.appended.size());
    return inputs;
  }
  void ExpectEvents(const Reader& reader, const Inputs& inputs, const OnePass& expected) {
    EXPECT_EQ(reader.tokens(), expected.drawn);
    EXPECT_EQ(reader.answers[0].text, expected.text);
    for (size_t i = 0; i < inputs.size(); ++i) {
      EXPECT_EQ(reader.appended[i].context_tokens, expected.contexts[i]);
      EXPECT_EQ(reader.appended[i].tokens, static_cast<int64_t>(inputs[i].second.size()));
      EXPECT_EQ(reader.appended[i].request_id, 5u);
    }
    for (size_t i = 0; i < reader.sequences.size(); ++i) {
      ASSERT_EQ(reader.sequences[i], static_cast<int64_t>(i) + 1);
    }
    const RequestUsage& usage = reader.finished.at(0).usage;
    EXPECT_EQ(usage.completion_tokens, static_cast<int64_t>(expected.drawn.size()));
    EXPECT_EQ(usage.prompt_tokens + usage.completion_tokens,
              static_cast<int64_t>(expected.all.size()));
  }

  std::mt19937 random_{11};
};

TEST_F(InterleavingTest, AnyInterleavingIsWhatOnePassGives) {
  StartEngine(DuplexOptions());
  size_t entered = 0, while_prefilling = 0;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    const SessionId id = OpenOne();
    const GenerateSpec spec = SomeAnswer(id);
    Reader reader = Generate(spec);
    std::vector<int32_t> late;
    const Inputs inputs = Interleave(id, reader, late);
    entered += inputs.size();
    for (const auto& input : inputs) while_prefilling += input.first == 0 ? 1 : 0;
    OnePass expected(spec.input.tokens, inputs, spec.sampling, spec.stop);
    ExpectEvents(reader, inputs, expected);
    Add(expected.all, late);
    // Back into the middle of it, then on.
    const auto position = static_cast<int64_t>(1 + random_() % expected.all.size());
    ASSERT_THAT(Rewind(id, position), IsOk());
    ExpectHolds(id, {expected.all.begin(), expected.all.begin() + position});
    ASSERT_THAT(CloseSession(id), IsOk());
  }
  EXPECT_GE(entered, 200u);
  EXPECT_GE(while_prefilling, 20u);
}

TEST_F(DuplexTest, ChatInputClosesTheAnswerSoFar) {
  StartEngine(DuplexOptions());
  const std::vector<int32_t> close = {kFakeEndToken, 9};
  // Before the first step, while the prompt is fed, and while it draws.
  for (const size_t drawn : {size_t{0}, size_t{1}, size_t{5}}) {
    const SessionId id = OpenOne();
    const GenerateSpec spec = On(id, Greedy({3, 4}, 10));
    Reader reader = Generate(spec);
    if (drawn > 0) ReadTokens(reader, drawn);
    Append(Into(id, reader, {20, 21}, close));
    RunToIdle({&reader});
    ASSERT_THAT(reader.appended, SizeIs(1));
    EXPECT_EQ(reader.appended[0].tokens, 4);
    const OnePass expected({3, 4}, {{reader.appended_after[0], {kFakeEndToken, 9, 20, 21}}},
                           spec.sampling, spec.stop);
    EXPECT_EQ(reader.tokens(), expected.drawn);
    ExpectHolds(id, expected.all);
  }
}

TEST_F(DuplexTest, TextHeldBackIsReleasedBeforeTheInputAndNoStopStringReachesOverIt) {
  StartEngine(DuplexOptions());
  const GenerateSpec plain = Greedy({3, 4}, 10);
  const std::vector<int32_t> tokens = AnswerOf({}, {3, 4}, plain.sampling, plain.stop).tokens;
  const SessionId id = OpenOne();
  GenerateSpec spec = On(id, plain);
  // The last token before the input begins it.
  spec.stop.stop_strings = {std::string(FakeTokenText(tokens[2])) + "never"};
  Reader reader = Generate(spec);
  ReadTokens(reader, 3);
  ASSERT_EQ(reader.token_count(), 3u);
  Append(Into(id, reader, {20, 21}));
  RunToIdle({&reader});
  ASSERT_THAT(reader.appended, SizeIs(1));
  EXPECT_EQ(reader.appended_after[0], 3u);
  EXPECT_EQ(reader.appended[0].text, FakeTokenText(tokens[2]));
}

TEST_F(DuplexTest, AReaderThatComesBackSeesWhereTheInputEntered) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 10)));
  ReadTokens(first, 3);
  Append(Into(id, first, {20, 21}));
  engine->Tick();
  engine->Tick();
  auto stream = engine->Resume({.owner = "alice", .session = id, .after = 0}, nullptr);
  Reader second(*stream);
  RunToIdle({&second});
  first.Read();
  ASSERT_THAT(first.appended, SizeIs(1));
  EXPECT_EQ(first.appended[0].request_id, 5u);
  ASSERT_THAT(second.appended, SizeIs(1));
  EXPECT_EQ(second.appended[0].request_id, std::nullopt);
  EXPECT_EQ(second.appended[0].sequence, first.appended[0].sequence);
  EXPECT_EQ(second.token_count(), 10u);
}

TEST_F(DuplexTest, AfterTheEndItIsAnOrdinaryAppend) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  const GenerateSpec spec = On(id, Greedy({3, 4}, 3));
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  const Answer answer = Append(Into(id, reader, {20, 21}));
  RunToIdle({&reader});
  ASSERT_THAT(*answer, Optional(IsOk()));
  EXPECT_FALSE((**answer)->entered_turn);
  EXPECT_EQ((**answer)->last_sequence, 6);
  std::vector<int32_t> all = {3, 4};
  Add(all, reader.tokens());
  Add(all, {20, 21});
  ExpectHolds(id, all);
}

TEST_F(DuplexTest, ItOnlyEntersTheTurnOfItsOwnReader) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  Reader first = Generate(On(id, Greedy({3, 4}, 10)));
  ReadTokens(first, 3);
  auto stream = engine->Resume({.owner = "alice", .session = id, .after = 0}, nullptr);
  Reader second(*stream);
  engine->Tick();
  const Answer answer = Append(Into(id, first, {20, 21}));
  RunToIdle({&second});
  EXPECT_THAT(*answer, Optional(StatusIs(absl::StatusCode::kFailedPrecondition, _)));
  EXPECT_THAT(second.appended, SizeIs(0));
}

TEST_F(DuplexTest, MoreThanATurnMayHaveToFeedIsRefused) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({3, 4}, 10)));
  ReadTokens(reader, 3);
  const Answer most = Append(Into(id, reader, std::vector<int32_t>((1 << 20) - 1, 7)));
  const Answer more = Append(Into(id, reader, std::vector<int32_t>(100, 7)));
  engine->Tick();
  EXPECT_THAT(*most, Optional(IsOk()));
  EXPECT_THAT(*more, Optional(StatusIs(absl::StatusCode::kResourceExhausted, _)));
  engine->Cancel(reader.stream(), /*by_client=*/true);
  RunToIdle({&reader});
  EXPECT_EQ(reader.finished.at(0).reason, FinishReason::kCancelled);
  // What was reached of the input is in the session, and can be gone back over.
  ASSERT_THAT(Rewind(id, 6), IsOk());
  std::vector<int32_t> all = {3, 4};
  Add(all, reader.tokens());
  all.resize(6, 7);
  ExpectHolds(id, all);
}

TEST_F(DuplexTest, BargeInCancelsAndFeedsWithNothingInBetween) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  const GenerateSpec spec = On(id, Greedy({3, 4}, 50));
  Reader first = Generate(spec);
  ReadTokens(first, 4);
  GenerateSpec waits = On(id, Greedy({30}, 3));
  waits.wait_if_busy = true;
  Reader second = Generate(waits);
  engine->Tick();
  const Answer answer = BargeIn(Into(id, first, {20, 21}, {kFakeEndToken, 9}));
  RunToIdle({&first, &second});
  ASSERT_THAT(first.finished, SizeIs(1));
  EXPECT_EQ(first.finished[0].reason, FinishReason::kCancelled);
  ASSERT_THAT(*answer, Optional(IsOk()));
  EXPECT_FALSE((**answer)->entered_turn);
  EXPECT_EQ((**answer)->last_sequence, first.sequences.back() + 1);
  EXPECT_EQ((**answer)->appended_tokens, 4);
  EXPECT_EQ(second.sequences.front(), first.sequences.back() + 2);
  std::vector<int32_t> all = {3, 4};
  Add(all, first.tokens());
  Add(all, {kFakeEndToken, 9, 20, 21, 30});
  EXPECT_EQ(second.tokens(), AnswerOf({}, all, waits.sampling, waits.stop).tokens);
}

TEST_F(DuplexTest, BargeInOfOneTokenAndAfterTheEnd) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({3, 4}, 50)));
  ReadTokens(reader, 4);
  const Answer first = BargeIn(Into(id, reader, {20}));
  RunToIdle({&reader});
  const Answer second = BargeIn(Into(id, reader, {21}));
  RunToIdle({&reader});
  ASSERT_THAT(*first, Optional(IsOk()));
  ASSERT_THAT(*second, Optional(IsOk()));
  EXPECT_EQ((**first)->last_sequence, reader.sequences.back() + 1);
  EXPECT_EQ((**second)->last_sequence, reader.sequences.back() + 2);
  std::vector<int32_t> all = {3, 4};
  Add(all, reader.tokens());
  Add(all, {20, 21});
  ExpectHolds(id, all);
}

TEST_F(DuplexTest, InputThatEntersOnARowThatIsLostIsLostWithIt) {
  StartEngine(DuplexOptions());
  const SessionId id = OpenOne();
  Reader reader = Generate(On(id, Greedy({3, 4}, 50)));
  ReadTokens(reader, 4);
  const Answer answer = Append(Into(id, reader, {20, 21}));
  decoder->FailNextStep();
  RunToIdle({&reader});
  EXPECT_THAT(*answer, Optional(IsOk()));
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kDataLoss, _)));
  EXPECT_THAT(Get(id), StatusIs(absl::StatusCode::kDataLoss, _));
}

}  // namespace
}  // namespace gma::testing
