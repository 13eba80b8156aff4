#include "server/engine/token_stream.h"

#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine/retry_hint.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::_;
using ::testing::IsEmpty;
using testing::IsOk;
using ::testing::Optional;
using ::testing::SizeIs;
using testing::StatusIs;

TokenEvent Token(int32_t token) {
  return {
      .candidate = 0, .sampled = {.token = token, .logprob = 0, .top_logprobs = {}}, .text = ""};
}

TEST(TokenStreamTest, WhoReadsTheEndOfAnAnswerFindsTheStreamClosed) {
  int notified = 0;
  TokenStream stream(4, TokenStream::kUnlimitedCredit, [&notified] { ++notified; });
  std::vector<StreamEvent> events;
  stream.Finish(
      {.candidate = 0, .reason = FinishReason::kLength, .text = "", .usage = {}, .timings = {}});
  EXPECT_EQ(notified, 1);
  EXPECT_THAT(stream.TakeAll(events), Optional(IsOk()));
  EXPECT_THAT(events, SizeIs(1));
}

TEST(TokenStreamTest, GivesEventsInOrderAndTheStatusWithTheLastOfThem) {
  TokenStream stream(4, TokenStream::kUnlimitedCredit, nullptr);
  std::vector<StreamEvent> events;
  EXPECT_FALSE(stream.TakeAll(events).has_value());
  stream.Push(StartedEvent{.seed = 7});
  stream.Push(Token(1));
  stream.Push(Token(2));
  stream.Close(absl::OkStatus());
  EXPECT_THAT(stream.TakeAll(events), Optional(IsOk()));
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(std::get<StartedEvent>(events[0]).seed, 7u);
  EXPECT_EQ(std::get<TokenEvent>(events[2]).sampled.token, 2);
  EXPECT_THAT(stream.TakeAll(events), Optional(IsOk()));
  EXPECT_THAT(events, IsEmpty());
}

TEST(TokenStreamTest, RoomIsCapacityAndCredit) {
  TokenStream stream(3, 2, nullptr);
  EXPECT_TRUE(stream.HasRoom(2));
  EXPECT_FALSE(stream.HasRoom(3));  // credit
  stream.AddCredit(10, 5);          // capped
  EXPECT_TRUE(stream.HasRoom(3));
  EXPECT_FALSE(stream.HasRoom(4));  // capacity
  for (int i = 0; i < 3; ++i) stream.Push(Token(i));
  EXPECT_FALSE(stream.HasRoom(1));
  std::vector<StreamEvent> events;
  stream.TakeAll(events);
  EXPECT_TRUE(stream.HasRoom(2));
  EXPECT_FALSE(stream.HasRoom(3));  // 2 of 5 left
}

TEST(TokenStreamTest, ACapNeverTakesCreditAway) {
  TokenStream stream(100, 50, nullptr);
  stream.AddCredit(1, 10);
  EXPECT_TRUE(stream.HasRoom(50));
}

TEST(TokenStreamTest, TheReaderWakesTheEngineOnlyWhenRoomWasWanted) {
  int woken = 0;
  TokenStream stream(1, TokenStream::kUnlimitedCredit, nullptr, [&] { ++woken; });
  std::vector<StreamEvent> events;
  stream.Push(Token(1));
  stream.TakeAll(events);
  EXPECT_EQ(woken, 0);
  stream.Push(Token(2));
  EXPECT_FALSE(stream.HasRoom(1));
  stream.TakeAll(events);
  EXPECT_EQ(woken, 1);
  stream.TakeAll(events);
  EXPECT_EQ(woken, 1);
}

TEST(TokenStreamTest, AReadThatFreesNoRoomDoesNotWakeTheEngine) {
  int woken = 0;
  TokenStream stream(1, 0, nullptr, [&] { ++woken; });
  stream.Push(StartedEvent{.seed = 1});
  EXPECT_FALSE(stream.HasRoom(1));
  std::vector<StreamEvent> events;
  stream.TakeAll(events);
  EXPECT_EQ(woken, 0);
  stream.AddCredit(1, 10);
  EXPECT_EQ(woken, 1);
}

TEST(TokenStreamTest, ASlowReaderInAThreadOfItsOwnGetsEveryToken) {
  constexpr int kTokens = 20'000;
  TokenStream stream(8, TokenStream::kUnlimitedCredit, nullptr);
  std::vector<int32_t> taken;
  std::thread reader([&] {
    std::vector<StreamEvent> events;
    for (;;) {
      const auto closed = stream.TakeAll(events);
      for (const StreamEvent& event : events) {
        taken.push_back(std::get<TokenEvent>(event).sampled.token);
      }
      if (closed) return;
      std::this_thread::yield();
    }
  });
  for (int i = 0; i < kTokens;) {
    if (stream.HasRoom(1)) {
      stream.Push(Token(i++));
    } else {
      std::this_thread::yield();
    }
  }
  stream.Close(absl::OkStatus());
  reader.join();
  ASSERT_THAT(taken, SizeIs(kTokens));
  for (int i = 0; i < kTokens; ++i) EXPECT_EQ(taken[static_cast<size_t>(i)], i);
}

TEST(RetryHintTest, TravelsInMessageAndPayload) {
  const absl::Status status = RetryLater("queue is full", 250);
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kResourceExhausted, "queue is full; retry in 250 ms"));
  EXPECT_EQ(RetryAfterMs(status), 250);
  EXPECT_EQ(RetryAfterMs(absl::ResourceExhaustedError("x")), std::nullopt);
}

}  // namespace
}  // namespace gma
