#include "client/loadgen/runner.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/unit/client/scripted_server.h"

namespace gma::client {
namespace {

using Events = Numbered<v1::GenerateResponse>;

// Two tokens at once, then two more, as fast as they go.
grpc::Status FourTokens(ScriptedServer::GenerateWriter& writer, int promised = 4) {
  Events events;
  writer.Write(events.Started());
  writer.Write(events.Tokens("x", 2));
  writer.Write(events.Tokens("x", 2));
  writer.Write(events.Finished(v1::FINISH_REASON_LENGTH, promised));
  return grpc::Status::OK;
}

TEST(Runner, ClosedLoopRunsSoManyAtOnce) {
  ScriptedServer server;
  std::atomic<int> running{0}, most{0};
  server.on_generate = [&](auto&, auto&, auto& writer) {
    const int now = ++running;
    int seen = most.load();
    while (seen < now && !most.compare_exchange_weak(seen, now)) {
    }
    absl::SleepFor(absl::Milliseconds(5));
    const grpc::Status status = FourTokens(writer);
    --running;
    return status;
  };
  LoadFlags flags;
  flags.streams = 3;
  flags.requests = 30;
  const LoadResult result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.started, 30);
  EXPECT_EQ(result.succeeded, 30);
  EXPECT_EQ(result.failed, 0);
  EXPECT_EQ(result.completion_tokens, 120);
  EXPECT_LE(most.load(), 3);
  EXPECT_EQ(result.first_token.Summarise().count, 30u);
  EXPECT_EQ(result.inter_token.Summarise().count, 90u);  // tokens but the first of each answer
  EXPECT_EQ(result.inter_message.Summarise().count, 30u);
  EXPECT_GE(result.first_token.Summarise().p50, 0.005);
  EXPECT_GE(result.wall_seconds, 0.05);
}

TEST(Runner, OpenLoopDoesNotWaitForASlowServerAndCountsFromTheArrival) {
  ScriptedServer server;
  std::atomic<int> started{0};
  absl::Notification go;
  server.on_generate = [&](auto&, auto&, auto& writer) {
    if (++started == 5) go.Notify();
    // Nobody is answered before all have come.
    go.WaitForNotification();
    return FourTokens(writer);
  };
  LoadFlags flags;
  flags.rate = 20;
  flags.arrivals = "constant";
  flags.requests = 5;
  const LoadResult result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.succeeded, 5);
  // The first came 4/20 s before the last.
  EXPECT_GE(result.first_token.Summarise().max, 0.2);
}

TEST(Runner, ErrorsAreCountedByCode) {
  ScriptedServer server;
  std::atomic<int> calls{0};
  server.on_generate = [&](auto&, auto&, auto& writer) -> grpc::Status {
    switch (calls++ % 3) {
      case 0:
        return FourTokens(writer);
      case 1:
        return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
      default:
        return FourTokens(writer, /*promised=*/5);
    }
  };
  LoadFlags flags;
  flags.requests = 9;
  const LoadResult result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.succeeded, 3);
  EXPECT_EQ(result.failed, 6);
  EXPECT_EQ(result.errors.at("RESOURCE_EXHAUSTED").count, 3);
  EXPECT_EQ(result.errors.at("RESOURCE_EXHAUSTED").example, "full");
  EXPECT_EQ(result.errors.at("DATA_LOSS").count, 3);
}

TEST(Runner, CancelsAndSlowReadersAreNoErrors) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) { return FourTokens(writer); };
  LoadFlags flags;
  flags.requests = 20;
  flags.streams = 20;
  flags.slow_readers = 1;
  flags.slow_read_delay = 0.02;
  LoadResult result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.succeeded, 20);
  EXPECT_EQ(result.slow, 20);
  EXPECT_EQ(result.end_to_end.Summarise().count, 0u);
  EXPECT_GE(result.wall_seconds, 0.06);  // three waits of 0.02 s at least

  server.on_generate = [](auto&, auto&, auto& writer) {
    Events events;
    while (writer.Write(events.Tokens("x"))) {
    }
    return grpc::Status::OK;
  };
  flags.cancels = 1;
  result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.cancelled, 20);
  EXPECT_EQ(result.failed, 0);
}

TEST(Runner, StopEndsWhatRuns) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) {
    Events events;
    while (writer.Write(events.Tokens("x"))) {
    }
    return grpc::Status::OK;
  };
  LoadFlags flags;
  flags.requests = 1000;
  flags.streams = 4;
  Runner runner(flags, {&server.client()}, 10);
  const LoadResult result = runner.Run([&](const Progress& progress) {
    EXPECT_EQ(progress.running, 4);
    runner.Stop();
  });
  EXPECT_EQ(result.cancelled, 4);
  EXPECT_EQ(result.started, 4);
}

TEST(Runner, StartsNothingAfterTheDuration) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) { return FourTokens(writer); };
  LoadFlags flags;
  flags.rate = 100;
  flags.arrivals = "constant";
  flags.duration = 0.1;
  const LoadResult result = Runner(flags, {&server.client()}, 10).Run({});
  EXPECT_EQ(result.started, 10);
  EXPECT_EQ(result.succeeded, 10);
}

}  // namespace
}  // namespace gma::client
