#include "client/lib/session.h"

#include <string>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "tests/unit/client/scripted_session.h"

namespace gma::client {
namespace {

TEST(Session, ConversesAndEndsPolitely) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    EXPECT_EQ(Open(stream, events).open().initial_credit(), 256);
    EXPECT_EQ(Command(stream, events).append().input().text(), "one");
    v1::SessionResponse appended = events.Next(1);
    appended.mutable_appended()->set_context_tokens(7);
    stream.Write(appended);
    EXPECT_TRUE(Command(stream, events).has_generate());
    stream.Write(events.Started());
    stream.Write(events.Tokens("x", 2));
    stream.Write(events.Finished());
    EXPECT_EQ(Command(stream, events).credit().tokens(), 2);
    EXPECT_TRUE(Command(stream, events).has_end());
    v1::SessionResponse ended = events.Next(1);
    ended.mutable_ended()->set_context_tokens(9);
    stream.Write(ended);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ((*session)->id(), "abc");
  v1::Input input;
  input.set_text("one");
  EXPECT_EQ(*(*session)->Append(input), 7);
  EXPECT_EQ(*Read(*(*session)->Generate({})), "xx");
  EXPECT_EQ(*(*session)->End(), 9);
  EXPECT_TRUE((*session)->broken());
}

TEST(Session, CreditIsGrantedAsTokensAreConsumed) {
  ScriptedServer server;
  absl::Notification granted;
  server.on_session = [&](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    const uint64_t turn = 2;
    stream.Write(events.Tokens("x", 4));
    const v1::SessionRequest credit = Command(stream, events);
    EXPECT_EQ(credit.credit().tokens(), 4);
    granted.Notify();
    events.Answer(turn);
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  v1::SessionOpen open;
  open.set_initial_credit(8);
  const auto session = server.client().OpenSession(open);
  const auto answer = (*session)->Generate({});
  // What only waits in this process was not consumed.
  EXPECT_TRUE(answer->Wait(absl::Seconds(10)));
  EXPECT_FALSE(granted.WaitForNotificationWithTimeout(absl::Milliseconds(200)));
  ASSERT_TRUE(answer->Next().ok());
  EXPECT_TRUE(granted.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(*Read(*answer), "");
}

TEST(Session, CancelFromAnotherThreadEndsTheAnswerOnly) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    stream.Write(events.Tokens("x"));
    EXPECT_TRUE(Command(stream, events).has_cancel());
    events.Answer(2);
    stream.Write(events.Finished(v1::FINISH_REASON_CANCELLED));
    Command(stream, events);  // credit
    EXPECT_TRUE(Command(stream, events).has_generate());
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  {
    const auto answer = (*session)->Generate({});
    ASSERT_TRUE(answer->Next().ok());
    std::thread([&] { answer->Cancel(); }).join();
    EXPECT_EQ(*Read(*answer), "");
    EXPECT_EQ(answer->finished().at(0).reason(), v1::FINISH_REASON_CANCELLED);
  }
  EXPECT_TRUE(Read(*(*session)->Generate({})).ok());
}

TEST(Session, DroppingAnAnswerEndsItsTurn) {
  ScriptedServer server;
  absl::Notification cancelled;
  server.on_session = [&](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    stream.Write(events.Tokens("x"));
    EXPECT_TRUE(Command(stream, events).has_cancel());
    cancelled.Notify();
    events.Answer(2);
    stream.Write(events.Finished(v1::FINISH_REASON_CANCELLED));
    Command(stream, events);  // credit
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  (*session)->Generate({}).reset();
  EXPECT_TRUE(cancelled.HasBeenNotified());
  EXPECT_FALSE((*session)->broken());
}

TEST(Session, AFailedCommandLeavesTheSession) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    v1::SessionResponse error = events.Next(1);
    error.mutable_error()->set_code(3);
    error.mutable_error()->set_message("too hot");
    stream.Write(error);
    EXPECT_TRUE(Command(stream, events).has_generate());
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  EXPECT_EQ(Read(*(*session)->Generate({})).status(), absl::InvalidArgumentError("too hot"));
  EXPECT_FALSE((*session)->broken());
  EXPECT_TRUE(Read(*(*session)->Generate({})).ok());
}

TEST(Session, AStreamThatEndsWithoutEndedIsNeverOk) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    stream.Write(events.Tokens("x"));
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  const auto answer = (*session)->Generate({});
  EXPECT_EQ(Read(*answer).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE((*session)->broken());
  EXPECT_EQ((*session)->End().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ((*session)->Append({}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Session, ALostEventIsDataLoss) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    events.Skip();
    stream.Write(events.Tokens("x"));
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  EXPECT_EQ(Read(*(*session)->Generate({})).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Session, ARefusedOpenSaysWhy) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no session abc");
  };
  v1::SessionOpen open;
  open.set_session_id("abc");
  EXPECT_EQ(server.client().OpenSession(open).status(), absl::NotFoundError("no session abc"));
}

}  // namespace
}  // namespace gma::client
