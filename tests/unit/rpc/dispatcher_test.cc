#include "server/rpc/dispatcher.h"

#include <atomic>
#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"

namespace gma {
namespace {

using ::testing::ElementsAre;

struct CountingCall final : LiveCall {
  void Tick() override {
    if (++ticks == 3) ticked.Notify();
  }
  void EndForShutdown() override { ended.Notify(); }
  int ticks = 0;
  absl::Notification ticked, ended;
};

TEST(DispatcherTest, RunsTasksInOrderOnOneThread) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  {
    Dispatcher dispatcher(absl::Seconds(1));
    for (int i = 0; i < 3; ++i) {
      dispatcher.Post([&, i] {
        order.push_back(i);
        threads.push_back(std::this_thread::get_id());
      });
    }
  }  // runs what is queued
  EXPECT_THAT(order, ElementsAre(0, 1, 2));
  EXPECT_THAT(threads, ElementsAre(threads[0], threads[0], threads[0]));
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(DispatcherTest, TicksLiveCallsAndEndsThem) {
  CountingCall call;
  Dispatcher dispatcher(absl::Milliseconds(5));
  dispatcher.Post([&] { dispatcher.Add(&call); });
  call.ticked.WaitForNotification();
  dispatcher.EndAll();
  call.ended.WaitForNotification();
  absl::Notification removed;
  dispatcher.Post([&] {
    dispatcher.Remove(&call);
    removed.Notify();
  });
  removed.WaitForNotification();
}

TEST(DispatcherTest, DropsWhatComesAfterTheEnd) {
  auto held = std::make_shared<int>(1);
  {
    Dispatcher dispatcher(absl::Seconds(1));
    dispatcher.Post([held] {});
  }
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace gma
