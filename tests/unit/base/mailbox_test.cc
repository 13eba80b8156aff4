#include "base/mailbox.h"

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

template <typename Message>
std::vector<Message> Take(Mailbox<Message>& box) {
  std::vector<Message> messages;
  box.TakeAll(messages);
  return messages;
}

TEST(Mailbox, MessagesComeOutInTheirOrderOnce) {
  Mailbox<int> box(10);
  EXPECT_TRUE(box.Post(1));
  EXPECT_TRUE(box.Post(2));
  EXPECT_TRUE(box.PostUnbounded(3));
  EXPECT_THAT(Take(box), ElementsAre(1, 2, 3));
  EXPECT_THAT(Take(box), IsEmpty());
}

TEST(Mailbox, TakingClearsWhatTheListHeld) {
  Mailbox<int> box(10);
  EXPECT_TRUE(box.Post(1));
  std::vector<int> messages = {7, 8, 9};
  box.TakeAll(messages);
  EXPECT_THAT(messages, ElementsAre(1));
}

TEST(Mailbox, AFullBoxRefusesAndLeavesTheMessage) {
  Mailbox<std::unique_ptr<int>> box(1);
  EXPECT_TRUE(box.Post(std::make_unique<int>(1)));
  auto message = std::make_unique<int>(2);
  EXPECT_FALSE(box.Post(std::move(message)));
  ASSERT_NE(message, nullptr) << "a refused message is still the caller's";
  EXPECT_EQ(*message, 2);
  EXPECT_TRUE(box.PostUnbounded(std::move(message))) << "the bound is not for these";
  EXPECT_EQ(Take(box).size(), 2u);
  EXPECT_TRUE(box.Post(std::make_unique<int>(3))) << "there is room again";
}

TEST(Mailbox, AClosedBoxRefusesAndGivesOutWhatItHas) {
  Mailbox<int> box(10);
  EXPECT_TRUE(box.Post(1));
  box.Close();
  EXPECT_FALSE(box.Post(2));
  EXPECT_FALSE(box.PostUnbounded(3));
  EXPECT_THAT(Take(box), ElementsAre(1));
}

TEST(Mailbox, WaitingEndsByAMessageAWakeACloseOrTheTime) {
  // Each wait would last for the test's time limit if its reason were missed.
  Mailbox<int> box(10);
  EXPECT_TRUE(box.Post(1));
  box.WaitForMessage(absl::InfiniteDuration());
  Take(box);
  box.Wake();
  box.WaitForMessage(absl::InfiniteDuration());
  box.WaitForMessage(absl::Milliseconds(1));
  std::thread poster([&] { EXPECT_TRUE(box.Post(2)); });
  box.WaitForMessage(absl::InfiniteDuration());
  poster.join();
  EXPECT_THAT(Take(box), ElementsAre(2));
  std::thread closer([&] { box.Close(); });
  box.WaitForMessage(absl::InfiniteDuration());
  closer.join();
}

TEST(Mailbox, OneWakeEndsOneWait) {
  Mailbox<int> box(10);
  box.Wake();
  box.WaitForMessage(absl::InfiniteDuration());
  const absl::Time start = absl::Now();
  box.WaitForMessage(absl::Milliseconds(20));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(19));
}

TEST(Mailbox, ManyPostersLoseNothing) {
  constexpr int kThreads = 4, kMessages = 5000;
  Mailbox<std::pair<int, int>> box(64);
  std::vector<std::thread> posters;
  for (int thread = 0; thread < kThreads; ++thread) {
    posters.emplace_back([&box, thread] {
      for (int i = 0; i < kMessages; ++i) {
        while (!box.Post({thread, i})) std::this_thread::yield();
      }
    });
  }
  std::vector<int> next(kThreads);
  std::vector<std::pair<int, int>> batch;
  for (int taken = 0; taken < kThreads * kMessages;) {
    box.WaitForMessage(absl::InfiniteDuration());
    box.TakeAll(batch);
    EXPECT_LE(batch.size(), 64u);
    for (const auto& [thread, number] : batch) {
      ASSERT_EQ(number, next[static_cast<size_t>(thread)]++) << "in order for each poster";
    }
    taken += static_cast<int>(batch.size());
  }
  for (std::thread& poster : posters) poster.join();
}

}  // namespace
}  // namespace gma
