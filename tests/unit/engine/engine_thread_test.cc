// The engine on its own thread, with clients on theirs: for the thread sanitizer, and for the
// wake-ups that ticks by hand never need.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/engine_fixture.h"

namespace gma::testing {
namespace {

// Something that one thread waits for and another one announces, again and again.
struct Signal {
  Mutex mutex;
  ConditionVariable changed;
  bool ready = false;

  void Notify() {
    MutexLock lock(&mutex);
    ready = true;
    changed.NotifyAll();
  }
  void Wait() {
    MutexLock lock(&mutex);
    while (!ready) changed.Wait(mutex);
    ready = false;
  }
};

// A reader that sleeps until the stream has something for it.
class WaitingReader {
 public:
  WaitingReader() : signal_(std::make_shared<Signal>()) {}

  absl::AnyInvocable<void()> Notifier() {
    return [signal = signal_] { signal->Notify(); };
  }
  // Reads until the end, or until `tokens` came.
  void ReadUntil(Reader& reader, size_t tokens) {
    while (!reader.status && reader.token_count() < tokens) {
      signal_->Wait();
      reader.Read();
    }
  }

 private:
  std::shared_ptr<Signal> signal_;
};

class EngineThreadTest : public EngineTest {
 protected:
  void StartThread(const EngineOptions& options) {
    decoder = std::make_unique<FakeDecoder>(options.max_batch_rows, options.max_step_tokens);
    auto created = Engine::Create(options, *decoder, FakeTokenText, real_clock, *metrics);
    ASSERT_TRUE(created.ok());
    engine = *std::move(created);
    engine->Start();
  }
  absl::StatusOr<SessionSnapshotInfo> OpenWaiting() {
    Signal done;
    std::optional<absl::StatusOr<SessionSnapshotInfo>> answer;
    engine->Open({.owner = "alice"}, [&](auto info) {
      answer = std::move(info);
      done.Notify();
    });
    done.Wait();
    return *std::move(answer);
  }

  RealClock real_clock;
};

TEST_F(EngineThreadTest, ConcurrentClientsGetTheirOwnAnswers) {
  EngineOptions options = DefaultOptions();
  options.max_sessions = 16;
  options.max_sessions_per_owner = 16;
  options.max_waiting = 64;
  options.stream_capacity = 16;
  StartThread(options);
  std::vector<std::thread> clients;
  std::atomic<int> good = 0, refused = 0;
  constexpr int kClients = 6, kRounds = 40;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int round = 0; round < kRounds; ++round) {
        GenerateSpec spec = Greedy({client + 1, round + 1}, 40);
        WaitingReader waiter;
        auto stream = engine->Generate(spec, waiter.Notifier());
        if (!stream.ok()) {
          ++refused;
          continue;
        }
        Reader reader(*stream);
        if (round % 5 == 4) {
          waiter.ReadUntil(reader, 3);
          engine->Cancel(reader.stream(), /*by_client=*/round % 2 == 0);
        }
        waiter.ReadUntil(reader, 1000);
        const auto expected = AnswerOf({}, spec.input.tokens, spec.sampling, spec.stop).tokens;
        ASSERT_LE(reader.token_count(), expected.size());
        for (size_t i = 0; i < reader.token_count(); ++i) {
          ASSERT_EQ(reader.tokens()[i], expected[i]);
        }
        if (round % 5 != 4) {
          ASSERT_TRUE(reader.status->ok());
          ASSERT_EQ(reader.token_count(), expected.size());
        }
        ++good;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good + refused, kClients * kRounds);
  EXPECT_EQ(refused, 0);
  engine->Shutdown();
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(EngineThreadTest, AReaderThatComesBackWakesThePausedEngine) {
  EngineOptions options = DefaultOptions();
  options.stream_capacity = 16;
  StartThread(options);
  WaitingReader waiter;
  auto stream = engine->Generate(Greedy({1, 2}, 200), waiter.Notifier());
  ASSERT_TRUE(stream.ok());
  Reader reader(*stream);
  // Each read finds the engine asleep, or about to be; none of its wake-ups may be lost.
  waiter.ReadUntil(reader, 1000);
  EXPECT_EQ(reader.token_count(), 200u);
}

TEST_F(EngineThreadTest, CreditCancelDeadlineAndExpiryWakeASleepingEngine) {
  StartThread(DefaultOptions());
  GenerateSpec spec = Greedy({1, 2}, 100);
  spec.initial_credit = 2;
  WaitingReader waiter;
  Reader reader(*engine->Generate(spec, waiter.Notifier()));
  waiter.ReadUntil(reader, 2);
  engine->AddCredit(reader.stream(), 3);
  waiter.ReadUntil(reader, 5);
  engine->Cancel(reader.stream(), /*by_client=*/true);
  waiter.ReadUntil(reader, 1000);
  EXPECT_EQ(reader.finished.at(0).reason, FinishReason::kCancelled);

  spec.deadline = real_clock.Monotonic() + absl::Milliseconds(30);
  WaitingReader late_waiter;
  Reader late(*engine->Generate(spec, late_waiter.Notifier()));
  late_waiter.ReadUntil(late, 1000);
  EXPECT_THAT(late.status,
              ::testing::Optional(StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::_)));
}

TEST_F(EngineThreadTest, SessionsFromManyThreads) {
  EngineOptions options = DefaultOptions();
  options.max_waiting = 64;
  StartThread(options);
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (int round = 0; round < 20; ++round) {
        const auto info = OpenWaiting();
        ASSERT_TRUE(info.ok());
        GenerateSpec spec = On(info->id, Greedy({client + 1}, 8));
        WaitingReader waiter;
        Reader reader(*engine->Generate(spec, waiter.Notifier()));
        if (round % 2 == 0) waiter.ReadUntil(reader, 1000);
        Signal closed;
        engine->Close("alice", info->id, [&](auto answer) {
          EXPECT_TRUE(answer.ok());
          closed.Notify();
        });
        closed.Wait();
        waiter.ReadUntil(reader, 1000);
        if (round % 2 == 0) {
          ASSERT_TRUE(reader.status->ok());
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  engine->Shutdown();
  EXPECT_EQ(engine->GetStatus().rows_used, 0);
}

TEST_F(EngineThreadTest, ShutdownWhileClientsPostAnswersEveryCall) {
  StartThread(DefaultOptions());
  std::atomic<bool> stop = false;
  std::atomic<int> asked = 0, answered = 0;
  std::vector<std::thread> clients;
  for (int client = 0; client < 3; ++client) {
    clients.emplace_back([&] {
      while (!stop) {
        ++asked;
        engine->Open({.owner = "alice"}, [&](auto) { ++answered; });
        auto stream = engine->Generate(Greedy({1}, 50), nullptr);
        if (stream.ok() && asked % 3 == 0) engine->Cancel(*stream, /*by_client=*/false);
      }
    });
  }
  absl::SleepFor(absl::Milliseconds(30));
  engine->Shutdown();
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(asked, answered);
  EXPECT_TRUE(engine->Drained());
}

}  // namespace
}  // namespace gma::testing
