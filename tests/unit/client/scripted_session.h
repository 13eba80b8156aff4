// What a scripted server says on a Session stream.
#ifndef GMA_TESTS_UNIT_CLIENT_SCRIPTED_SESSION_H_
#define GMA_TESTS_UNIT_CLIENT_SCRIPTED_SESSION_H_

#include "gtest/gtest.h"
#include "tests/unit/client/scripted_server.h"

namespace gma::client {

using Events = Numbered<v1::SessionResponse>;

// Reads the opening command and answers it.
inline v1::SessionRequest Open(ScriptedServer::SessionStream& stream, Events& events) {
  v1::SessionRequest request;
  EXPECT_TRUE(stream.Read(&request));
  EXPECT_TRUE(request.has_open());
  events.Answer(request.request_id());
  v1::SessionResponse response = events.Next(0);
  response.mutable_opened()->set_last_sequence(response.sequence() - 1);
  response.clear_sequence();
  response.mutable_opened()->set_session_id("abc");
  stream.Write(response);
  return request;
}

// Answers the last command: as an append that was fed, with an error.
inline void Appended(ScriptedServer::SessionStream& stream, Events& events) {
  v1::SessionResponse response = events.Next(1);
  response.mutable_appended()->set_context_tokens(static_cast<int64_t>(response.sequence()));
  stream.Write(response);
}
inline void Aborted(ScriptedServer::SessionStream& stream, Events& events) {
  v1::SessionResponse response = events.Next(0);
  response.clear_sequence();
  response.mutable_error()->set_code(10);
  response.mutable_error()->set_message("after is ..., and the last event is ...");
  stream.Write(response);
}

// Reads the next command; the events that follow answer it.
inline v1::SessionRequest Command(ScriptedServer::SessionStream& stream, Events& events) {
  v1::SessionRequest request;
  if (stream.Read(&request)) events.Answer(request.request_id());
  return request;
}

// Reads the next command that is no credit.
inline v1::SessionRequest NoCredit(ScriptedServer::SessionStream& stream, Events& events) {
  v1::SessionRequest command;
  do {
    command = Command(stream, events);
  } while (command.has_credit());
  return command;
}

}  // namespace gma::client

#endif  // GMA_TESTS_UNIT_CLIENT_SCRIPTED_SESSION_H_
