// Answers of private requests: tokens, stops, n, cancels, deadlines, slow readers, admission.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine/retry_hint.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

using ::testing::_;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;

class GenerateTest : public EngineTest {};

TEST_F(GenerateTest, GivesTheChainOfItsPrompt) {
  StartEngine();
  const std::vector<int32_t> prompt = {5, 6, 7};
  GenerateSpec spec = Greedy(prompt, 20);
  const ExpectedAnswer expected = AnswerOf({}, prompt, spec.sampling, spec.stop);
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), expected.tokens);
  EXPECT_EQ(reader.answers[0].text, expected.text);
  EXPECT_THAT(reader.status, Optional(IsOk()));
  ASSERT_EQ(reader.finished.size(), 1u);
  EXPECT_EQ(reader.finished[0].reason, FinishReason::kLength);
  EXPECT_EQ(reader.finished[0].usage.prompt_tokens, 3);
  EXPECT_EQ(reader.finished[0].usage.cached_tokens, 0);
  EXPECT_EQ(reader.finished[0].usage.completion_tokens, 20);
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(GenerateTest, TheLogSaysWhyAnAnswerEndedAsTheMetricsDo) {
  StartEngine();
  SetLogLevel(LogLevel::kInfo);  // each test begins with the fixture's own
  ::testing::internal::CaptureStderr();
  Reader reader = Generate(Greedy({5, 6, 7}, 20));
  RunToIdle({&reader});
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("\"reason\":\"length\""));
}

TEST_F(GenerateTest, APromptLongerThanAStepIsFedInPieces) {
  StartEngine();
  std::vector<int32_t> prompt(100);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i % 59) + 1;
  GenerateSpec spec = Greedy(prompt, 5);
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, prompt, spec.sampling, spec.stop).tokens);
  EXPECT_EQ(decoder->tokens_fed(), 100 + 4);  // the last token drawn is never fed
}

TEST_F(GenerateTest, ManyRequestsDoNotMixAndSampledOnesFollowTheirSeed) {
  EngineOptions options = DefaultOptions();
  StartEngine(options);
  std::vector<Reader> readers;
  std::vector<ExpectedAnswer> expected;
  for (int32_t i = 0; i < 8; ++i) {
    GenerateSpec spec = Greedy({i + 1, 2 * i + 3}, 10 + i);
    spec.sampling.temperature = 0.7;
    spec.sampling.top_k = 8;
    spec.sampling.repetition_penalty = 1.3;
    spec.sampling.seed = static_cast<uint64_t>(i % 3);
    spec.stop.ignore_eos = false;
    expected.push_back(AnswerOf({}, spec.input.tokens, spec.sampling, spec.stop));
    readers.push_back(Generate(spec));
  }
  std::vector<Reader*> all;
  for (Reader& reader : readers) all.push_back(&reader);
  RunToIdle(all);
  for (size_t i = 0; i < readers.size(); ++i) {
    EXPECT_EQ(readers[i].tokens(), expected[i].tokens) << i;
    EXPECT_EQ(readers[i].answers[0].reason, expected[i].reason) << i;
    EXPECT_EQ(readers[i].answers[0].text, expected[i].text) << i;
  }
}

TEST_F(GenerateTest, NAnswersShareThePromptAndDrawWithTheirOwnSeeds) {
  StartEngine();
  GenerateSpec spec = Greedy({9, 8, 7, 6, 5}, 12);
  spec.n = 3;
  spec.sampling.temperature = 1.5;
  spec.sampling.seed = 40;
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.seed, 40u);
  ASSERT_EQ(reader.answers.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    SamplingParams sampling = spec.sampling;
    sampling.seed = 40 + i;
    EXPECT_EQ(reader.answers[i].tokens, AnswerOf({}, spec.input.tokens, sampling, spec.stop).tokens)
        << i;
  }
  EXPECT_NE(reader.answers[0].tokens, reader.answers[1].tokens);
  EXPECT_EQ(reader.finished.size(), 3u);
  EXPECT_EQ(decoder->tokens_fed(), 5 + 3 * 11);  // the prompt once
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(GenerateTest, StopStringIsNotShownAndHeldTextComesOut) {
  StartEngine();
  GenerateSpec spec = Greedy({1, 2, 3}, 30);
  const ExpectedAnswer whole = AnswerOf({}, spec.input.tokens, spec.sampling, spec.stop);
  ASSERT_GT(whole.text.size(), 12u);
  spec.stop.stop_strings = {whole.text.substr(8, 3)};
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.answers[0].reason, FinishReason::kStopString);
  EXPECT_EQ(reader.answers[0].text,
            whole.text.substr(0, whole.text.find(spec.stop.stop_strings[0])));
}

TEST_F(GenerateTest, CancelByTheClientFinishesWithinOneStepAndGivesTheRowBack) {
  StartEngine();
  Reader reader = Generate(Greedy({1, 2, 3}, 1000));
  for (int i = 0; i < 5; ++i) engine->Tick();
  const int64_t steps = decoder->steps();
  engine->Cancel(reader.stream(), /*by_client=*/true);
  engine->Tick();
  EXPECT_EQ(decoder->steps(), steps);
  reader.Read();
  EXPECT_THAT(reader.status, Optional(IsOk()));
  ASSERT_EQ(reader.finished.size(), 1u);
  EXPECT_EQ(reader.finished[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(reader.finished[0].usage.completion_tokens, 5);
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
  // Once more does nothing.
  engine->Cancel(reader.stream(), /*by_client=*/true);
  RunToIdle();
}

TEST_F(GenerateTest, CancelOfAGoneReaderEndsTheRequest) {
  StartEngine();
  Reader reader = Generate(Greedy({1, 2, 3}, 1000));
  engine->Cancel(reader.stream(), /*by_client=*/false);  // before it was even admitted
  engine->Tick();
  reader.Read();
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kCancelled, _)));
  EXPECT_EQ(decoder->steps(), 0);
  EXPECT_EQ(engine->GetStatus().requests_waiting, 0);
}

TEST_F(GenerateTest, ADeadlineThatHasPassedCostsNoWork) {
  StartEngine();
  GenerateSpec spec = Greedy({1, 2, 3}, 1000);
  spec.deadline = clock.Monotonic() + absl::Seconds(1);
  Reader late = Generate(spec);
  clock.Advance(absl::Seconds(1));
  engine->Tick();
  late.Read();
  EXPECT_THAT(late.status, Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, _)));
  EXPECT_EQ(decoder->steps(), 0);
}

TEST_F(GenerateTest, ADeadlineEndsARunningRequestAtTheNextTick) {
  StartEngine();
  GenerateSpec spec = Greedy({1, 2, 3}, 1000);
  spec.deadline = clock.Monotonic() + absl::Seconds(1);
  Reader reader = Generate(spec);
  for (int i = 0; i < 3; ++i) engine->Tick();
  clock.Advance(absl::Seconds(2));
  engine->Tick();
  reader.Read();
  EXPECT_EQ(reader.token_count(), 3u);
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, _)));
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(GenerateTest, ASlowReaderPausesItselfAndNobodyElse) {
  EngineOptions options = DefaultOptions();
  options.stream_capacity = 16;
  StartEngine(options);
  Reader slow = Generate(Greedy({1, 2, 3}, 40));
  Reader other = Generate(Greedy({4, 5, 6}, 40));
  RunToIdle({&other});
  EXPECT_THAT(other.status, Optional(IsOk()));
  slow.Read();
  EXPECT_EQ(slow.token_count(), 16u);
  EXPECT_FALSE(slow.status.has_value());
  RunToIdle({&slow});
  GenerateSpec spec = Greedy({1, 2, 3}, 40);
  EXPECT_EQ(slow.tokens(), AnswerOf({}, {1, 2, 3}, spec.sampling, spec.stop).tokens);
}

TEST_F(GenerateTest, CreditBoundsWhatIsDrawn) {
  StartEngine();
  GenerateSpec spec = Greedy({1, 2, 3}, 10);
  spec.initial_credit = 4;
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(reader.token_count(), 4u);
  engine->AddCredit(reader.stream(), 1);
  RunToIdle({&reader});
  EXPECT_EQ(reader.token_count(), 5u);
  engine->AddCredit(reader.stream(), 100);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, {1, 2, 3}, spec.sampling, spec.stop).tokens);
}

TEST_F(GenerateTest, WithoutCreditThePromptIsFedButForItsLastToken) {
  StartEngine();
  GenerateSpec spec = Greedy({1, 2, 3, 4, 5}, 3);
  spec.initial_credit = 0;
  Reader reader = Generate(spec);
  RunToIdle({&reader});
  EXPECT_EQ(decoder->tokens_fed(), 4);
  engine->AddCredit(reader.stream(), 3);
  RunToIdle({&reader});
  EXPECT_EQ(reader.tokens(), AnswerOf({}, {1, 2, 3, 4, 5}, spec.sampling, spec.stop).tokens);
}

TEST_F(GenerateTest, AFullQueueRefusesAtOnceWithARetryHint) {
  EngineOptions options = DefaultOptions();
  options.max_waiting = 2;
  StartEngine(options);
  Generate(Greedy({1}, 1));
  Generate(Greedy({1}, 1));
  const auto refused = engine->Generate(Greedy({1}, 1), nullptr);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("queue is full")));
  EXPECT_THAT(RetryAfterMs(refused.status()), Optional(Gt(0)));
  RunToIdle();
  EXPECT_TRUE(engine->Generate(Greedy({1}, 1), nullptr).ok());
}

TEST_F(GenerateTest, WithoutAFreeRowARequestIsRefusedWithARetryHint) {
  EngineOptions options = DefaultOptions();
  options.max_sessions = 2;
  StartEngine(options);
  Reader first = Generate(Greedy({1}, 100));
  GenerateSpec pair = Greedy({1}, 1);
  pair.n = 2;
  Reader second = Generate(pair);
  engine->Tick();
  second.Read();
  ASSERT_THAT(second.status,
              Optional(StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 state rows"))));
  EXPECT_THAT(RetryAfterMs(*second.status), Optional(Gt(0)));
  EXPECT_EQ(engine->GetStatus().rows_used, 1);
}

TEST_F(GenerateTest, TheQuotaCountsPrivateRequestsToo) {
  EngineOptions options = DefaultOptions();
  options.max_sessions_per_owner = 1;
  StartEngine(options);
  ASSERT_THAT(Open(), IsOk());
  Reader mine = Generate(Greedy({1}, 1));
  GenerateSpec spec = Greedy({1}, 1);
  spec.owner = "bob";
  Reader theirs = Generate(spec);
  RunToIdle({&mine, &theirs});
  EXPECT_THAT(mine.status,
              Optional(StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 1"))));
  EXPECT_THAT(theirs.status, Optional(IsOk()));
}

TEST_F(GenerateTest, AnEmptyPromptNeedsASession) {
  StartEngine();
  Reader reader = Generate(Greedy({}, 1));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status, Optional(StatusIs(absl::StatusCode::kInvalidArgument, _)));
}

TEST_F(GenerateTest, AFailedStepLosesItsRowsAndNoOthers) {
  EngineOptions options = DefaultOptions();
  options.max_batch_rows = 1;
  StartEngine(options);
  Reader first = Generate(Greedy({1}, 10));
  Reader second = Generate(Greedy({2}, 10));
  engine->Tick();
  decoder->FailNextStep();
  RunToIdle({&first, &second});
  const int lost = (first.status->ok() ? 0 : 1) + (second.status->ok() ? 0 : 1);
  EXPECT_EQ(lost, 1);
  const Reader& failed = first.status->ok() ? second : first;
  const Reader& good = first.status->ok() ? first : second;
  EXPECT_THAT(failed.status, Optional(StatusIs(absl::StatusCode::kDataLoss, _)));
  const GenerateSpec spec = Greedy({}, 10);
  const int32_t prompt = &good == &first ? 1 : 2;
  EXPECT_EQ(good.tokens(), AnswerOf({}, {prompt}, spec.sampling, spec.stop).tokens);
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
  EXPECT_EQ(metrics->step_failures->Value(), 1);
}

TEST_F(GenerateTest, NonFiniteLogitsEndThatAnswerAlone) {
  StartEngine();
  Reader first = Generate(Greedy({1}, 10));
  Reader second = Generate(Greedy({2}, 10));
  engine->Tick();
  ASSERT_EQ(decoder->last_rows().size(), 2u);
  decoder->NanForRow(decoder->last_rows()[0]);
  RunToIdle({&first, &second});
  EXPECT_THAT(first.status,
              Optional(StatusIs(absl::StatusCode::kInternal, HasSubstr("non-finite"))));
  EXPECT_THAT(second.status, Optional(IsOk()));
  EXPECT_EQ(metrics->state_nonfinite->Value(), 1);
}

TEST_F(GenerateTest, DrainingRefusesNewWorkAndLetsTheRestFinish) {
  StartEngine();
  Reader reader = Generate(Greedy({1, 2}, 5));
  engine->BeginDrain();
  EXPECT_FALSE(engine->Drained());
  EXPECT_THAT(engine->Generate(Greedy({1}, 1), nullptr),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kUnavailable, _));
  RunToIdle({&reader});
  EXPECT_THAT(reader.status, Optional(IsOk()));
  EXPECT_TRUE(engine->Drained());
}

TEST_F(GenerateTest, ShutdownEndsEverythingThatIsLeft) {
  StartEngine();
  Reader running = Generate(Greedy({1, 2}, 500));
  engine->Tick();
  Reader posted = Generate(Greedy({1, 2}, 500));
  engine->Shutdown();
  running.Read();
  posted.Read();
  EXPECT_THAT(running.status, Optional(StatusIs(absl::StatusCode::kUnavailable, _)));
  EXPECT_THAT(posted.status, Optional(StatusIs(absl::StatusCode::kUnavailable, _)));
  EXPECT_TRUE(engine->Drained());
  EXPECT_FALSE(engine->Generate(Greedy({1}, 1), nullptr).ok());
  // A stream may outlive the engine.
  engine.reset();
  running.Read();
}

TEST_F(GenerateTest, NotifyIsCalledForTheFirstEventAfterAReadAndForTheEnd) {
  StartEngine();
  int notified = 0;
  auto stream = engine->Generate(Greedy({1, 2}, 3), [&] { ++notified; });
  ASSERT_TRUE(stream.ok());
  engine->Tick();  // started and the first token
  EXPECT_EQ(notified, 1);
  engine->Tick();
  EXPECT_EQ(notified, 1);
  Reader reader(*stream);
  reader.Read();
  engine->Tick();  // the last token, Finished, the end
  EXPECT_EQ(notified, 3);
}

TEST_F(GenerateTest, CountsAndTimesReachTheMetrics) {
  StartEngine();
  decoder->set_on_step([&](const StepBatch&) { clock.Advance(absl::Milliseconds(4)); });
  Reader reader = Generate(Greedy({1, 2, 3}, 5));
  clock.Advance(absl::Milliseconds(10));
  RunToIdle({&reader});
  EXPECT_EQ(metrics->prompt_tokens->Value(), 3);
  EXPECT_EQ(metrics->generation_tokens->Value(), 5);
  EXPECT_EQ(metrics->request_success[FinishedReasonLabel::kLength]->Value(), 1);
  EXPECT_EQ(metrics->num_requests_running->Value(), 0);
  EXPECT_EQ(metrics->state_rows[RowUseLabel::kFree]->Value(), 8);
  const RequestTimings& timings = reader.finished.at(0).timings;
  EXPECT_DOUBLE_EQ(timings.queue, 0.010);
  EXPECT_DOUBLE_EQ(timings.prefill, 0.004);
  EXPECT_DOUBLE_EQ(timings.first_token, 0.014);
  EXPECT_DOUBLE_EQ(timings.decode, 0.016);
}

}  // namespace
}  // namespace gma::testing
