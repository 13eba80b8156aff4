#include "server/engine/turn_history.h"

#include <deque>
#include <random>
#include <string>

#include "gtest/gtest.h"

namespace gma {
namespace {

TokenEvent Token(int64_t number, int32_t id, std::string text, size_t tops = 0) {
  TokenEvent event = {.candidate = 0, .sampled = {}};
  event.sampled.token = id;
  event.sampled.logprob = -0.25F * static_cast<float>(id);
  for (size_t i = 0; i < tops; ++i) {
    event.sampled.top_logprobs.push_back({static_cast<int32_t>(i), -1.0F * static_cast<float>(i)});
  }
  event.text = std::move(text);
  event.logprobs = true;
  event.sequence = number;
  return event;
}

void ExpectSame(const StreamEvent& got, const StreamEvent& want) {
  EXPECT_EQ(SequenceOf(got), SequenceOf(want));
  ASSERT_EQ(got.index(), want.index());
  if (const auto* token = std::get_if<TokenEvent>(&want)) {
    const auto& same = std::get<TokenEvent>(got);
    EXPECT_EQ(same.candidate, token->candidate);
    EXPECT_EQ(same.text, token->text);
    EXPECT_EQ(same.logprobs, token->logprobs);
    EXPECT_EQ(same.sampled.token, token->sampled.token);
    EXPECT_EQ(same.sampled.logprob, token->sampled.logprob);
    ASSERT_EQ(same.sampled.top_logprobs.size(), token->sampled.top_logprobs.size());
    for (size_t i = 0; i < same.sampled.top_logprobs.size(); ++i) {
      EXPECT_EQ(same.sampled.top_logprobs[i].token, token->sampled.top_logprobs[i].token);
      EXPECT_EQ(same.sampled.top_logprobs[i].logprob, token->sampled.top_logprobs[i].logprob);
    }
  } else if (const auto* input = std::get_if<AppendedEvent>(&want)) {
    EXPECT_EQ(std::get<AppendedEvent>(got).context_tokens, input->context_tokens);
    EXPECT_FALSE(std::get<AppendedEvent>(got).request_id.has_value());
  }
}

TEST(TurnHistoryTest, KeepsTheLastEventsWhateverTheyAre) {
  std::mt19937 random(3);
  for (const int64_t capacity : {1, 2, 7, 64}) {
    TurnHistory history(57, capacity);
    std::deque<StreamEvent> kept;
    EXPECT_EQ(history.first(), 57);
    EXPECT_EQ(history.last(), 56);
    for (int64_t number = 57; number < 557; ++number) {
      StreamEvent event = Token(number, static_cast<int32_t>(random() % 300),
                                std::string(random() % 9, 'x'), random() % 4);
      if (random() % 5 == 0) {
        event = AppendedEvent{.context_tokens = number,
                              .tokens = 1,
                              .text = "t",
                              .request_id = 9,
                              .sequence = number};
      }
      history.Add(event);
      kept.push_back(std::move(event));
      if (kept.size() > static_cast<size_t>(capacity)) kept.pop_front();
      ASSERT_EQ(history.first(), SequenceOf(kept.front()));
      ASSERT_EQ(history.last(), number);
      for (const StreamEvent& want : kept) ExpectSame(history.At(SequenceOf(want)), want);
    }
    EXPECT_EQ(history.begin(), 57);
  }
}

// A turn with every kind of event, of which the oldest are gone.
TurnHistory SomeTurn() {
  TurnHistory history(5, 12);
  history.Add(StartedEvent{.seed = 7, .sequence = 5});
  for (int64_t number = 6; number < 20; ++number) {
    history.Add(Token(number, static_cast<int32_t>(number), "text", number % 3));
  }
  history.Add(AppendedEvent{
      .context_tokens = 40, .tokens = 3, .text = "held", .request_id = 9, .sequence = 20});
  history.Add(Token(21, 0, ""));
  history.Add(
      FinishedEvent{.candidate = 0,
                    .reason = FinishReason::kStopString,
                    .text = "rest",
                    .usage = {.prompt_tokens = 3, .cached_tokens = 4, .completion_tokens = 5},
                    .timings = {.queue = 1, .prefill = 2, .decode = 3, .first_token = 4},
                    .sequence = 22});
  return history;
}

TEST(TurnHistoryTest, ComesBackFromItsBytes) {
  TurnHistory history = SomeTurn();
  history.End(absl::OkStatus());
  const auto again = TurnHistory::Parse(history.Serialize(), 12);
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(again->begin(), history.begin());
  ASSERT_EQ(again->first(), history.first());
  ASSERT_EQ(again->last(), history.last());
  EXPECT_TRUE(again->end().has_value() && again->end()->ok());
  for (int64_t number = history.first(); number <= history.last(); ++number) {
    ExpectSame(again->At(number), history.At(number));
  }
  const auto finished = std::get<FinishedEvent>(again->At(22));
  EXPECT_EQ(finished.reason, FinishReason::kStopString);
  EXPECT_EQ(finished.text, "rest");
  EXPECT_EQ(finished.usage.cached_tokens, 4);
  EXPECT_EQ(finished.timings.decode, 3);
  // A reader of less memory gets the newest.
  EXPECT_EQ(TurnHistory::Parse(history.Serialize(), 3)->first(), 20);
}

TEST(TurnHistoryTest, NothingIsKeptOfATurnThatFailed) {
  TurnHistory history = SomeTurn();
  history.End(absl::DataLossError("a step failed"));
  EXPECT_EQ(history.Serialize(), "");
}

TEST(TurnHistoryTest, OtherBytesAreNone) {
  const std::string bytes = SomeTurn().Serialize();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(TurnHistory::Parse(bytes.substr(0, size), 12), nullptr) << size;
  }
  EXPECT_EQ(TurnHistory::Parse(bytes + "x", 12), nullptr);
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) {  // some are sound, none is a crash
    std::string other = bytes;
    other[random() % other.size()] = static_cast<char>(random());
    TurnHistory::Parse(other, 12);
  }
}

TEST(TurnHistoryTest, ATokenCostsSixteenBytesAndItsText) {
  TurnHistory history(1, 65536);
  for (int64_t number = 1; number <= 65536; ++number) history.Add(Token(number, 5, "abcd"));
  history.End(absl::OkStatus());
  EXPECT_LE(history.bytes(), 65536u * 20 + 1024);
}

}  // namespace
}  // namespace gma
