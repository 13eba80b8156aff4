// Each command of a session's stream is done once: what it says, and what it waits for.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "client/lib/session.h"
#include "client/lib/session_call.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "tests/unit/client/scripted_session.h"

namespace gma::client {
namespace {

using ::testing::ElementsAre;

v1::Input Text(const std::string& text) {
  v1::Input input;
  input.set_text(text);
  return input;
}

std::vector<std::unique_ptr<Target>> OneTarget(const std::string& address) {
  std::vector<std::unique_ptr<Target>> targets;
  targets.push_back(
      std::make_unique<Target>(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())));
  return targets;
}

v1::SessionOpen Kept() {
  v1::SessionOpen open;
  open.set_keep(true);
  return open;
}

TEST(SessionOnce, CommandsSayWhichEventTheyFollow) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    events.Skip();
    Open(stream, events);
    EXPECT_EQ(Command(stream, events).append().after(), 1u);
    Appended(stream, events);
    const v1::SessionRequest generate = Command(stream, events);
    EXPECT_EQ(generate.generate().after(), 2u);
    stream.Write(events.Started());
    stream.Write(events.Tokens("x", 3));
    stream.Write(events.Finished());
    const v1::SessionRequest append = NoCredit(stream, events);
    EXPECT_EQ(append.append().after(), 7u);
    Appended(stream, events);
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession(Kept());
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ((*session)->last_sequence(), 1u);
  EXPECT_EQ(*(*session)->Append(Text("one")), 2);
  const auto answer = (*session)->Generate({});
  EXPECT_EQ((*session)->last_sequence(), std::nullopt);
  EXPECT_EQ(*Read(*answer), "xxx");
  EXPECT_EQ((*session)->last_sequence(), 7u);
  EXPECT_EQ(*(*session)->Append(Text("two")), 8);
}

TEST(SessionOnce, WithoutKeepNothingIsSaidThatNobodyAsksFor) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    EXPECT_FALSE(Command(stream, events).append().has_after());
    Appended(stream, events);
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession({});
  EXPECT_EQ(*(*session)->Append(Text("one")), 1);
}

TEST(SessionOnce, InputThatCrossesTheEndOfItsAnswerIsFedBehindIt) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    Command(stream, events);
    stream.Write(events.Started());
    stream.Write(events.Tokens("x"));
    const v1::SessionRequest crossing = Command(stream, events);
    EXPECT_EQ(crossing.append().after(), 2u);
    events.Answer(2);
    stream.Write(events.Finished());
    events.Answer(crossing.request_id());
    Aborted(stream, events);
    const v1::SessionRequest again = NoCredit(stream, events);
    EXPECT_EQ(again.append().after(), 3u);
    EXPECT_EQ(again.append().request_key(), crossing.append().request_key());
    Appended(stream, events);
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession(Kept());
  const auto answer = (*session)->Generate({});
  ASSERT_TRUE(answer->Next().ok());
  EXPECT_EQ(*(*session)->Append(Text("one")), 4);
  EXPECT_EQ(*Read(*answer), "");
}

TEST(SessionOnce, AfterSomebodyElsesTurnItGoesOnFromThere) {
  ScriptedServer server;
  server.on_session = [](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    events.Skip();
    EXPECT_EQ(Command(stream, events).append().after(), 0u);
    Aborted(stream, events);
    EXPECT_FALSE(Command(stream, events).append().has_after());
    Appended(stream, events);
    EXPECT_EQ(Command(stream, events).generate().after(), 2u);
    stream.Write(events.Started());
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession(Kept());
  EXPECT_EQ(*(*session)->Append(Text("one")), 2);
  EXPECT_EQ(*Read(*(*session)->Generate({})), "");
}

TEST(SessionOnce, WhatMayHaveBeenDoneIsNotSentOnceMoreWhenItsNumberIsRefused) {
  ScriptedServer server;
  int streams = 0;
  std::string key;
  server.on_session = [&](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    const v1::SessionAppend append = Command(stream, events).append();
    EXPECT_EQ(append.after(), 0u);
    if (++streams == 1) {
      key = append.request_key();
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
    }
    EXPECT_EQ(append.request_key(), key);
    Aborted(stream, events);
    Command(stream, events);
    return grpc::Status::OK;
  };
  const auto session = server.client().OpenSession(Kept());
  EXPECT_EQ((*session)->Append(Text("one")).status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(streams, 2);
}

TEST(SessionOnce, AnAnswerFlowsWhileItsReaderWaitsForInputThatABreakMadeUnclear) {
  ScriptedServer server;
  int streams = 0;
  server.on_session = [&](auto&, auto& stream) {
    Events events;
    const int64_t credit = Open(stream, events).open().initial_credit();
    if (++streams == 1) {
      Command(stream, events);
      stream.Write(events.Started());
      stream.Write(events.Tokens("x", 2));
      while (!Command(stream, events).has_append()) {
      }
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
    }
    for (int i = 0; i < 3; ++i) events.Skip();
    Command(stream, events);  // the answer, once more
    const uint64_t turn = 2;
    // Ten tokens more, no more at a time than were granted.
    int64_t left = credit;
    for (int token = 0; token < 10; ++token) {
      while (left == 0) left = Command(stream, events).credit().tokens();
      --left;
      events.Answer(turn);
      stream.Write(events.Tokens("y"));
    }
    stream.Write(events.Finished());
    const v1::SessionRequest append = NoCredit(stream, events);
    EXPECT_EQ(append.append().after(), 14u);
    Appended(stream, events);
    Command(stream, events);
    return grpc::Status::OK;
  };
  v1::SessionOpen open = Kept();
  open.set_initial_credit(3);
  const auto session = server.client().OpenSession(open);
  const auto answer = (*session)->Generate({});
  EXPECT_EQ((*answer->Next())->text, "xx");
  EXPECT_EQ(*(*session)->Append(Text("one")), 15);
  EXPECT_EQ(*Read(*answer), "yyyyyyyyyy");
}

TEST(SessionOnce, WhatWouldBeATurnWaitsForTheAppendBeforeIt) {
  ScriptedServer server;
  std::vector<std::string> seen;
  server.on_session = [&](auto&, auto& stream) {
    Events events;
    Open(stream, events);
    if (seen.empty()) {
      seen.push_back(Command(stream, events).append().input().text());
      // The others would come now, if they did not wait.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed");
    }
    for (const uint64_t after : {0, 1}) {
      const v1::SessionAppend append = Command(stream, events).append();
      EXPECT_EQ(append.after(), after);
      seen.push_back(append.input().text());
      Appended(stream, events);
    }
    EXPECT_EQ(Command(stream, events).generate().after(), 2u);
    stream.Write(events.Started());
    stream.Write(events.Finished());
    Command(stream, events);
    return grpc::Status::OK;
  };
  Targets targets(OneTarget(server.options().address));
  StreamCount streams;
  const std::string no_key;
  const auto call =
      SessionCall::Start({targets, no_key, streams, server.options().resume_for}, Kept());
  ASSERT_TRUE(call->Next(SessionCall::kOpenId, absl::Seconds(10)).ok());
  v1::SessionRequest one, two, three;
  *one.mutable_append()->mutable_input() = Text("one");
  *two.mutable_append()->mutable_input() = Text("two");
  three.mutable_generate();
  const uint64_t ids[] = {call->Send(one), call->Send(two), call->Send(three)};
  EXPECT_EQ(call->Next(ids[2], absl::Seconds(10))->started().seed(), 1u);
  EXPECT_EQ(call->Next(ids[0], absl::Seconds(10))->appended().context_tokens(), 1);
  EXPECT_EQ(call->Next(ids[1], absl::Seconds(10))->appended().context_tokens(), 2);
  EXPECT_TRUE(call->Next(ids[2], absl::Seconds(10))->has_finished());
  EXPECT_THAT(seen, ElementsAre("one", "one", "two"));
  call->Abort();
  streams.WaitForNone();
}

}  // namespace
}  // namespace gma::client
