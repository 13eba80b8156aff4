// Generation.Session and Sessions, over gRPC on loopback.
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class SessionTest : public ::testing::Test {
 protected:
  void Start(TestServerOptions options = {}) {
    server_ = std::make_unique<TestServer>(std::move(options));
    channel_ = server_->NewChannel();
    stub_ = v1::Generation::NewStub(channel_);
    sessions_ = v1::Sessions::NewStub(channel_);
  }
  // Code of Sessions.Get.
  grpc::StatusCode GetCode(const std::string& id, v1::SessionInfo* info = nullptr) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::SessionInfo ignored;
    return sessions_->Get(&context, request, info == nullptr ? &ignored : info).error_code();
  }
  static v1::SessionRequest Command(uint64_t id) {
    v1::SessionRequest request;
    request.set_request_id(id);
    return request;
  }

  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_F(SessionTest, AConversationRemembersWhatWasSaid) {
  Start();
  SessionClient client(*stub_);
  const v1::SessionOpened opened = client.Open({});
  EXPECT_EQ(opened.session_id().size(), 32u);
  EXPECT_FALSE(opened.resumed());
  client.StartGenerate({1, 2, 3}, 10);
  const ReadAnswer first = client.ReadTurn();
  EXPECT_THAT(first.tokens, ElementsAreArray(OracleTokens({1, 2, 3}, 10)));
  EXPECT_TRUE(first.sequence_ok);
  // Without new input the answer goes on where it stopped: both together are one long answer.
  client.StartGenerate({}, 10);
  std::vector<int32_t> both = first.tokens;
  const ReadAnswer second = client.ReadTurn();
  both.insert(both.end(), second.tokens.begin(), second.tokens.end());
  EXPECT_THAT(both, ElementsAreArray(OracleTokens({1, 2, 3}, 20)));
  EXPECT_EQ(second.finished->usage().cached_tokens(), 12);

  v1::SessionRequest end = Command(9);
  end.mutable_end();
  client.Write(end);
  v1::SessionResponse response;
  ASSERT_TRUE(client.Read(response) && response.has_ended()) << response.ShortDebugString();
  EXPECT_EQ(response.request_id(), 9u);
  EXPECT_EQ(response.ended().context_tokens(), 23);
  EXPECT_TRUE(client.Finish().ok());
  EXPECT_EQ(GetCode(opened.session_id()), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
}

TEST_F(SessionTest, AppendAndGenerateBackToBackAreTakenInOrder) {
  Start();
  SessionClient client(*stub_);
  client.Open({});
  v1::SessionRequest append = Command(5);
  *append.mutable_append()->mutable_input() = GreedyRequest({7, 8, 9}, 1).input();
  client.Write(append);
  client.StartGenerate({10}, 5);
  v1::SessionResponse response;
  ASSERT_TRUE(client.Read(response) && response.has_appended()) << response.ShortDebugString();
  EXPECT_EQ(response.request_id(), 5u);
  EXPECT_EQ(response.appended().context_tokens(), 3);
  EXPECT_THAT(client.ReadTurn().tokens, ElementsAreArray(OracleTokens({7, 8, 9, 10}, 5)));
}

TEST_F(SessionTest, CreditPausesTheAnswerAndLetsItGoOn) {
  Start();
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(4);
  client.Open(open);
  client.StartGenerate({1}, 10);
  std::vector<int32_t> tokens;
  v1::SessionResponse response;
  while (tokens.size() < 4 && client.Read(response)) {
    for (const auto& token : response.tokens().tokens()) tokens.push_back(token.id());
  }
  EXPECT_EQ(tokens.size(), 4u);
  absl::SleepFor(absl::Milliseconds(200));  // time enough for the engine to send too much
  for (int i = 0; i < 2; ++i) {
    v1::SessionRequest credit = Command(1);
    credit.mutable_credit()->set_tokens(3);
    client.Write(credit);
    const size_t want = tokens.size() + 3;
    while (tokens.size() < want && client.Read(response)) {
      for (const auto& token : response.tokens().tokens()) tokens.push_back(token.id());
    }
    EXPECT_EQ(tokens.size(), want);
  }
  ASSERT_TRUE(client.Read(response) && response.has_finished()) << response.ShortDebugString();
  EXPECT_THAT(tokens, ElementsAreArray(OracleTokens({1}, 10)));
}

TEST_F(SessionTest, CancelEndsTheTurnAndNotTheStream) {
  TestServerOptions options;
  options.step_time = absl::Milliseconds(2);
  Start(options);
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(1048576);
  client.Open(open);
  client.StartGenerate({1}, 1000000);
  v1::SessionResponse response;
  while (client.Read(response) && !response.has_tokens()) {
  }
  v1::SessionRequest cancel = Command(2);
  cancel.mutable_cancel();
  client.Write(cancel);
  const ReadAnswer answer = client.ReadTurn();
  ASSERT_TRUE(answer.finished.has_value());
  EXPECT_EQ(answer.finished->reason(), v1::FINISH_REASON_CANCELLED);
  client.Write(cancel);  // of nothing: no mistake
  client.StartGenerate({2}, 3);
  EXPECT_EQ(client.ReadTurn().tokens.size(), 3u);
}

TEST_F(SessionTest, CommandsThatCannotBeTakenLeaveTheSessionAsItWas) {
  TestServerOptions options;
  options.step_time = absl::Milliseconds(5);
  Start(options);
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(2);
  client.Open(open);
  client.StartGenerate({1}, 4);
  v1::SessionResponse response;
  while (client.Read(response) && !response.has_tokens()) {
  }
  v1::SessionRequest generate = Command(30);
  *generate.mutable_generate()->mutable_input() = GreedyRequest({7}, 1).input();
  v1::SessionRequest credit = Command(31);
  credit.mutable_credit()->set_tokens(0);  // out of range
  v1::SessionRequest nothing = Command(32);
  v1::SessionRequest reopen = Command(33);
  reopen.mutable_open();
  const std::vector<std::pair<v1::SessionRequest, grpc::StatusCode>> commands = {
      {generate, grpc::StatusCode::FAILED_PRECONDITION},
      {credit, grpc::StatusCode::INVALID_ARGUMENT},
      {nothing, grpc::StatusCode::INVALID_ARGUMENT},
      {reopen, grpc::StatusCode::FAILED_PRECONDITION}};
  for (const auto& [command, code] : commands) {
    client.Write(command);
    do {
      ASSERT_TRUE(client.Read(response));
    } while (!response.has_error());
    EXPECT_EQ(response.error().code(), code) << response.error().message();
    EXPECT_EQ(response.request_id(), command.request_id());
  }
  credit.mutable_credit()->set_tokens(100);
  client.Write(credit);
  EXPECT_EQ(client.ReadTurn().finished->reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(SessionTest, KeptSessionsCanBeResumed) {
  Start();
  v1::SessionOpen open;
  open.set_keep(true);
  {
    SessionClient client(*stub_);
    open.set_session_id(client.Open(open).session_id());
    client.StartGenerate({1, 2}, 6);
    client.ReadTurn();
  }  // breaks off
  SessionClient client(*stub_);
  const v1::SessionOpened opened = client.Open(open);
  EXPECT_TRUE(opened.resumed());
  EXPECT_EQ(opened.context_tokens(), 8);
  client.StartGenerate({}, 6);
  const std::vector<int32_t> all = OracleTokens({1, 2}, 12);
  EXPECT_THAT(client.ReadTurn().tokens, ElementsAreArray(all.begin() + 6, all.end()));
}

TEST_F(SessionTest, AStreamThatBreaksOffClosesItsSession) {
  Start();
  std::string id;
  {
    SessionClient client(*stub_);
    id = client.Open({}).session_id();
    client.StartGenerate({1}, 1000000);
    v1::SessionResponse response;
    while (client.Read(response) && !response.has_tokens()) {
    }
  }
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
  EXPECT_EQ(GetCode(id), grpc::StatusCode::NOT_FOUND);
}

TEST_F(SessionTest, AHalfCloseWithoutEndIsNeverOk) {
  Start();
  SessionClient client(*stub_);
  client.Open({});
  client.stream().WritesDone();
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
  SessionClient silent(*stub_);
  silent.stream().WritesDone();
  EXPECT_EQ(silent.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(SessionTest, TheFirstMessageMustBeOpen) {
  Start();
  SessionClient client(*stub_);
  client.StartGenerate({1}, 1);
  const grpc::Status status = client.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("open"));
}

// Sends an open and then `garbage` as a message; returns how the stream ends.
grpc::Status SendGarbage(const std::shared_ptr<grpc::Channel>& channel,
                         const std::string& garbage) {
  grpc::GenericStub generic(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = generic.PrepareCall(&context, "/gma.v1.Generation/Session", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  v1::SessionRequest open;
  open.mutable_open();
  for (const std::string& bytes : {open.SerializeAsString(), garbage}) {
    const grpc::Slice slice(bytes);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    queue.Next(&tag, &ok);
    if (!ok) break;
    if (bytes == garbage) break;
    grpc::ByteBuffer opened;
    call->Read(&opened, nullptr);
    queue.Next(&tag, &ok);
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return status;
}

TEST_F(SessionTest, GarbageOnAStreamIsNeverOk) {
  Start();
  for (const std::string& garbage :
       {std::string("\xff\xff\xff\xff"), std::string("\x12\x05x"),
        std::string("\x12\x04\x0a\x02\xc3\x28"), std::string(1000, '\x80')}) {
    EXPECT_EQ(SendGarbage(channel_, garbage).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
}

TEST_F(SessionTest, SessionsOpenGetAppendAndClose) {
  Start();
  grpc::ClientContext open_context, append_context, close_context, again_context, ttl_context;
  v1::OpenSessionRequest open;
  open.set_ttl_seconds(120);
  v1::SessionInfo info;
  ASSERT_TRUE(sessions_->Open(&open_context, open, &info).ok());
  EXPECT_EQ(info.ttl_seconds(), 120);
  EXPECT_EQ(info.state(), v1::SESSION_STATE_IDLE);
  EXPECT_EQ(info.context_tokens(), 0);
  v1::AppendRequest append;
  append.set_session_id(info.session_id());
  *append.mutable_input() = GreedyRequest({1, 2, 3}, 1).input();
  v1::SessionInfo after;
  ASSERT_TRUE(sessions_->Append(&append_context, append, &after).ok());
  EXPECT_EQ(after.context_tokens(), 3);
  EXPECT_EQ(after.state_bytes(), info.state_bytes());  // the same at any length
  v1::GenerateRequest more = GreedyRequest({4}, 6);
  more.set_session_id(info.session_id());
  EXPECT_THAT(Generate(*stub_, more).tokens, ElementsAreArray(OracleTokens({1, 2, 3, 4}, 6)));
  v1::CloseSessionRequest close;
  close.set_session_id(info.session_id());
  v1::CloseSessionResponse closed;
  ASSERT_TRUE(sessions_->Close(&close_context, close, &closed).ok());
  EXPECT_EQ(closed.context_tokens(), 10);
  EXPECT_EQ(sessions_->Close(&again_context, close, &closed).error_code(),
            grpc::StatusCode::NOT_FOUND);
  open.set_ttl_seconds(604801);
  EXPECT_EQ(sessions_->Open(&ttl_context, open, &info).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(SessionTest, ListComesInPages) {
  Start();
  std::set<std::string> opened, listed;
  for (int i = 0; i < 5; ++i) {
    grpc::ClientContext context;
    v1::SessionInfo info;
    ASSERT_TRUE(sessions_->Open(&context, {}, &info).ok());
    opened.insert(info.session_id());
  }
  v1::ListSessionsRequest request;
  request.set_page_size(2);
  int pages = 0;
  do {
    grpc::ClientContext context;
    v1::ListSessionsResponse page;
    ASSERT_TRUE(sessions_->List(&context, request, &page).ok());
    EXPECT_LE(page.sessions_size(), 2);
    for (const v1::SessionInfo& info : page.sessions()) {
      EXPECT_TRUE(listed.insert(info.session_id()).second);
    }
    request.set_page_token(page.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(listed, opened);
  EXPECT_EQ(pages, 3);
  request.set_page_token("next\n");
  grpc::ClientContext no_token;
  v1::ListSessionsResponse none;
  EXPECT_EQ(sessions_->List(&no_token, request, &none).error_message(),
            "page_token is \"next\\n\", must be the next_page_token of the page before, or empty");
  for (const int32_t size : {-1, 1001}) {
    grpc::ClientContext context;
    v1::ListSessionsResponse page;
    v1::ListSessionsRequest bad;
    bad.set_page_size(size);
    EXPECT_EQ(sessions_->List(&context, bad, &page).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
}

}  // namespace
}  // namespace gma::testing
