#include "client/lib/call.h"

#include <atomic>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/lib/status.h"
#include "gtest/gtest.h"
#include "tests/unit/client/scripted_server.h"

namespace gma::client {
namespace {

using Events = Numbered<v1::GenerateResponse>;

TEST(Generate, StreamsToTheEnd) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto& request, auto& writer) {
    EXPECT_EQ(context.client_metadata().find("authorization")->second, "Bearer key");
    EXPECT_EQ(request.input().text(), "prompt");
    Events events;
    writer.Write(events.Started());
    writer.Write(events.Tokens("\xE2\x82"));
    v1::GenerateResponse heartbeat = events.Next(1);
    heartbeat.mutable_heartbeat();
    writer.Write(heartbeat);
    writer.Write(events.Tokens("\xAC", 1));
    writer.Write(events.Tokens("x", 3));
    writer.Write(events.Finished());
    return grpc::Status::OK;
  };
  v1::GenerateRequest request;
  request.mutable_input()->set_text("prompt");
  const auto answer = server.client().Generate(request);
  EXPECT_EQ(*Read(*answer), "\xE2\x82\xACxxx");
  EXPECT_EQ(answer->started().seed(), 1u);
  EXPECT_EQ(answer->finished().at(0).reason(), v1::FINISH_REASON_LENGTH);
}

TEST(Generate, NamesItsSessionForProxies) {
  ScriptedServer server;
  const std::string id(32, 'a');
  std::vector<std::string> named;
  server.on_generate = [&](auto& context, auto&, auto&) {
    const auto found = context.client_metadata().find("gma-session");
    const bool there = found != context.client_metadata().end();
    named.push_back(there ? std::string(found->second.data(), found->second.size()) : "none");
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "");
  };
  for (const std::string& session : {id, std::string(), std::string("no\nid"), id + "a"}) {
    v1::GenerateRequest request;
    request.set_session_id(session);
    EXPECT_FALSE(Read(*server.client().Generate(request)).ok());
  }
  EXPECT_EQ(named, (std::vector<std::string>{id, "none", "none", "none"}));
}

TEST(Generate, AStreamThatEndsWithoutFinishedIsNeverOk) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) {
    Events events;
    writer.Write(events.Started());
    writer.Write(events.Tokens("x"));
    return grpc::Status::OK;
  };
  EXPECT_EQ(Read(*server.client().Generate(v1::GenerateRequest())).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(Generate, TheEndOfOneCandidateIsNotTheEndOfAll) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) {
    Events events;
    writer.Write(events.Finished());
    return grpc::Status::OK;
  };
  v1::GenerateRequest request;
  request.set_n(2);
  EXPECT_EQ(Read(*server.client().Generate(request)).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(Generate, ALostEventIsDataLoss) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto&, auto& writer) {
    Events events;
    writer.Write(events.Started());
    events.Skip();
    writer.Write(events.Tokens("x"));
    writer.Write(events.Finished());
    return grpc::Status::OK;
  };
  EXPECT_EQ(Read(*server.client().Generate(v1::GenerateRequest())).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(Generate, ErrorsKeepCodeMessageAndRetryHint) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto&, auto&) {
    context.AddTrailingMetadata("retry-after-ms", "1500");
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue\nis full");
  };
  const absl::Status status = Read(*server.client().Generate(v1::GenerateRequest())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "the queue\nis full");
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(1500));
  EXPECT_EQ(OneLine(status), "RESOURCE_EXHAUSTED: the queue is full");
  EXPECT_EQ(RetryAfter(absl::InternalError("")), std::nullopt);
}

// Writes tokens until the client is gone.
grpc::Status Endless(grpc::ServerContext& context, ScriptedServer::GenerateWriter& writer) {
  Events events;
  while (writer.Write(events.Tokens("x"))) {
  }
  return grpc::Status::OK;
}

TEST(Generate, CancelEndsTheCall) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto&, auto& writer) { return Endless(context, writer); };
  const auto answer = server.client().Generate(v1::GenerateRequest());
  ASSERT_TRUE(answer->Next().ok());
  answer->Cancel();
  EXPECT_EQ(Read(*answer).status().code(), absl::StatusCode::kCancelled);
}

TEST(Generate, TheTimeoutEndsTheCall) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto&, auto& writer) { return Endless(context, writer); };
  const auto answer = server.client().Generate(v1::GenerateRequest(), absl::Milliseconds(200));
  EXPECT_EQ(Read(*answer).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(Generate, AnAnswerThatNobodyReadsCanBeDropped) {
  ScriptedServer server;
  absl::Notification over;
  server.on_generate = [&](auto& context, auto&, auto& writer) {
    const grpc::Status status = Endless(context, writer);
    over.Notify();
    return status;
  };
  auto answer = server.client().Generate(v1::GenerateRequest());
  EXPECT_TRUE(answer->Wait(absl::Seconds(10)));
  answer.reset();
  EXPECT_TRUE(over.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(Generate, AHandlerThatAsksForItReadsNoFurtherUntilResume) {
  ScriptedServer server;
  server.on_generate = [](auto&, auto&, auto& writer) {
    Events events;
    for (int i = 0; i < 3; ++i) writer.Write(events.Tokens("x"));
    writer.Write(events.Finished());
    return grpc::Status::OK;
  };
  std::atomic<int> seen{0};
  absl::Notification done;
  absl::Status status;
  GenerateHandler handler;
  handler.on_event = [&](v1::GenerateResponse&) { return ++seen != 2; };
  handler.on_done = [&](absl::Status final_status) {
    status = final_status;
    done.Notify();
  };
  const auto call = server.client().Generate(v1::GenerateRequest(), std::move(handler));
  EXPECT_FALSE(done.WaitForNotificationWithTimeout(absl::Milliseconds(300)));
  EXPECT_EQ(seen.load(), 2);
  call->Resume();
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(seen.load(), 4);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(Generate, APausedCallCanBeCancelled) {
  ScriptedServer server;
  server.on_generate = [](auto& context, auto&, auto& writer) { return Endless(context, writer); };
  absl::Notification paused, done;
  absl::Status status;
  GenerateHandler handler;
  handler.on_event = [&](v1::GenerateResponse&) {
    if (!paused.HasBeenNotified()) paused.Notify();
    return false;
  };
  handler.on_done = [&](absl::Status final_status) {
    status = final_status;
    done.Notify();
  };
  const auto call = server.client().Generate(v1::GenerateRequest(), std::move(handler));
  paused.WaitForNotification();
  call->Cancel();
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  call->Cancel();
  call->Resume();
}

TEST(Client, NoServerIsOneClearError) {
  ClientOptions options;
  options.address = "127.0.0.1:1";
  const auto client = Client::Create(options);
  const absl::Status status = (*client)->WaitUntilServing("", absl::Milliseconds(300)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("127.0.0.1:1"), absl::string_view::npos);
  options.address = "";
  EXPECT_EQ(Client::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.address = "localhost:1";
  options.tls = true;
  options.tls_ca_file = "/nonexistent.pem";
  EXPECT_EQ(Client::Create(options).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace gma::client
