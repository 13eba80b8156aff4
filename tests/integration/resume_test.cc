// Exactly once over gRPC on loopback: connections that are cut, streams that hang, calls that are
// made again. Each answer put together from its parts is the oracle's, each event there once.
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::HasSubstr;

class ResumeTest : public ::testing::Test {
 protected:
  static TestServerOptions WithWindow() {
    TestServerOptions options;
    options.engine.resume_window = absl::Minutes(10);
    return options;
  }
  void Start(TestServerOptions options = WithWindow()) {
    server_ = std::make_unique<TestServer>(std::move(options));
    // Its window does not grow, so that a stream that is not read comes to a stop.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Generation::NewStub(channel_);
    sessions_ = v1::Sessions::NewStub(channel_);
  }
  std::string OpenOne() {
    grpc::ClientContext context;
    v1::SessionInfo info;
    EXPECT_TRUE(sessions_->Open(&context, {}, &info).ok());
    return info.session_id();
  }
  v1::SessionInfo Get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::SessionInfo info;
    EXPECT_TRUE(sessions_->Get(&context, request, &info).ok());
    return info;
  }
  static v1::GenerateRequest On(const std::string& id, int64_t tokens = kTokens,
                                const std::string& key = "") {
    v1::GenerateRequest request = GreedyRequest({3, 4}, tokens);
    request.set_session_id(id);
    request.set_request_key(key);
    return request;
  }
  // A Generate that is open: read as far as a test wants.
  struct Open {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
    std::vector<int32_t> tokens;
    uint64_t last = 0;  // number of the last event seen

    // Reads until `count` tokens are there; false at the end of the stream.
    bool ReadTokens(size_t count) {
      v1::GenerateResponse event;
      while (tokens.size() < count) {
        if (!reader->Read(&event)) return false;
        last = event.sequence() + (event.has_tokens() ? event.tokens().tokens_size() - 1 : 0);
        for (const v1::Token& token : event.tokens().tokens()) tokens.push_back(token.id());
      }
      return true;
    }
    grpc::Status Rest() {
      v1::GenerateResponse event;
      while (reader->Read(&event)) {
      }
      return reader->Finish();
    }
  };
  std::unique_ptr<Open> Begin(const v1::GenerateRequest& request) {
    auto open = std::make_unique<Open>();
    open->reader = stub_->Generate(&open->context, request);
    return open;
  }
  bool Detached(const std::string& id) {
    return Eventually(absl::Seconds(1),
                      [&] { return Get(id).state() == v1::SESSION_STATE_DETACHED; });
  }
  void ExpectWhole(const Open& first, const ReadAnswer& second) {
    EXPECT_TRUE(second.status.ok()) << second.status.error_message();
    EXPECT_TRUE(second.sequence_ok);
    EXPECT_EQ(second.first_sequence, first.last + 1);
    EXPECT_EQ(second.last_sequence, static_cast<uint64_t>(kTokens) + 2);
    EXPECT_TRUE(second.finished.has_value());
    std::vector<int32_t> tokens = first.tokens;
    tokens.insert(tokens.end(), second.tokens.begin(), second.tokens.end());
    EXPECT_EQ(tokens, OracleTokens({3, 4}, kTokens));
  }

  // More than a connection holds: a turn that is not read to its end does not come to it.
  static constexpr int64_t kTokens = 40000;

  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_F(ResumeTest, ACutConnectionCostsNoEvent) {
  Start();
  const std::string id = OpenOne();
  const auto first = Begin(On(id));
  ASSERT_TRUE(first->ReadTokens(7));
  first->context.TryCancel();
  EXPECT_FALSE(first->Rest().ok());
  ASSERT_TRUE(Detached(id));
  const int64_t context = Get(id).context_tokens();
  EXPECT_LT(context, 2 + kTokens);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(Get(id).context_tokens(), context);  // nothing is computed for nobody
  ExpectWhole(*first, Resume(*stub_, id, first->last));
  EXPECT_EQ(Get(id).last_sequence(), static_cast<uint64_t>(kTokens) + 2);
  EXPECT_EQ(Get(id).state(), v1::SESSION_STATE_IDLE);
}

TEST_F(ResumeTest, AStreamThatHangsIsTakenOver) {
  Start();
  const std::string id = OpenOne();
  const auto hangs = Begin(On(id));
  ASSERT_TRUE(hangs->ReadTokens(7));
  // Over another connection, as a client would that waits for the first one's timeout no longer.
  const auto other = v1::Generation::NewStub(server_->NewChannel());
  ExpectWhole(*hangs, Resume(*other, id, hangs->last));
  const grpc::Status status = hangs->Rest();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), HasSubstr("another client resumed this turn"));
}

TEST_F(ResumeTest, OfTwoClientsThatResumeAtOnceTheNewerWins) {
  Start();
  const std::string id = OpenOne();
  const auto first = Begin(On(id));
  ASSERT_TRUE(first->ReadTokens(3));
  first->context.TryCancel();
  first->Rest();
  ReadAnswer answers[2];
  std::vector<std::thread> threads;
  for (ReadAnswer& answer : answers) {
    threads.emplace_back([&] { answer = Resume(*stub_, id, first->last); });
  }
  for (std::thread& thread : threads) thread.join();
  const bool first_won = answers[0].finished.has_value() && answers[0].status.ok();
  const ReadAnswer& winner = answers[first_won ? 0 : 1];
  const ReadAnswer& other = answers[first_won ? 1 : 0];
  ExpectWhole(*first, winner);
  EXPECT_TRUE(other.sequence_ok);
  if (other.status.ok()) {
    ExpectWhole(*first, other);  // it came when all was over
  } else {
    EXPECT_EQ(other.status.error_code(), grpc::StatusCode::ABORTED) << other.status.error_message();
  }
}

TEST_F(ResumeTest, ADeadlineOfTheCallLeavesTheTurnStanding) {
  Start();
  const std::string id = OpenOne();
  auto first = std::make_unique<Open>();
  first->context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(60));
  first->reader = stub_->Generate(&first->context, On(id));
  first->ReadTokens(7);
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_FALSE(first->ReadTokens(kTokens + 1));
  EXPECT_EQ(first->reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(Detached(id)) << Get(id).ShortDebugString() << first->tokens.size();
  ExpectWhole(*first, Resume(*stub_, id, first->last));
}

TEST_F(ResumeTest, LogprobsComeAgainAsTheyWere) {
  Start();
  const std::string id = OpenOne();
  v1::GenerateRequest request = On(id, 5);
  request.mutable_sampling()->set_top_logprobs(3);
  std::vector<std::string> tokens[2];
  for (const bool again : {false, true}) {
    grpc::ClientContext context;
    v1::ResumeRequest resume;
    resume.set_session_id(id);
    const auto reader =
        again ? stub_->Resume(&context, resume) : stub_->Generate(&context, request);
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
      for (const v1::Token& token : event.tokens().tokens()) {
        EXPECT_EQ(token.top_logprobs_size(), 3);
        tokens[again ? 1 : 0].push_back(token.SerializeAsString());
      }
    }
    EXPECT_TRUE(reader->Finish().ok());
  }
  EXPECT_EQ(tokens[0].size(), 5u);
  EXPECT_EQ(tokens[0], tokens[1]);
}

TEST_F(ResumeTest, WhatCannotBeHadIsRefusedByName) {
  TestServerOptions options = WithWindow();
  options.engine.resume_events = 10;
  const auto keys = ApiKeys::Parse(
      // echo -n alice | sha256sum, and of bob.
      "alice:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\n"
      "bob:81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9\n");
  ASSERT_TRUE(keys.ok()) << keys.status().ToString();
  options.api_keys = *keys;
  Start(options);
  const auto call = [](const std::string& key) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer " + key);
    return context;
  };
  v1::SessionInfo info;
  ASSERT_TRUE(sessions_->Open(call("alice").get(), {}, &info).ok());
  const auto generate = call("alice");
  ASSERT_TRUE(Generate(*stub_, On(info.session_id(), 20), *generate).status.ok());
  const auto resume = [&](const std::string& key, const std::string& id, uint64_t after) {
    v1::ResumeRequest request;
    request.set_session_id(id);
    request.set_after(after);
    const auto context = call(key);
    return ReadToEnd(*stub_->Resume(context.get(), request), 0);
  };
  const grpc::Status future = resume("alice", info.session_id(), 23).status;
  EXPECT_EQ(future.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_THAT(future.error_message(), HasSubstr("is 22"));
  const grpc::Status gone = resume("alice", info.session_id(), 5).status;
  EXPECT_EQ(gone.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_THAT(gone.error_message(), HasSubstr("oldest event kept is 13"));
  EXPECT_EQ(resume("bob", info.session_id(), 20).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(resume("alice", std::string(32, '0'), 0).status.error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(resume("alice", "nonsense", 0).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(resume("alice", info.session_id(), ~uint64_t{0}).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  const ReadAnswer nothing = resume("alice", info.session_id(), 22);
  EXPECT_TRUE(nothing.status.ok());
  EXPECT_EQ(nothing.messages, 0);
}

TEST_F(ResumeTest, TheSameGenerateIsTheSameTurnBeforeDuringAndAfterIt) {
  Start();
  const std::string id = OpenOne();
  v1::GenerateRequest request = On(id, kTokens, "key 1");
  request.set_after(0);
  // Before: the first try was refused, because the session was busy.
  const auto busy = Begin(On(id, 1000000));
  ASSERT_TRUE(busy->ReadTokens(1));
  EXPECT_EQ(Generate(*stub_, request).status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  busy->context.TryCancel();
  busy->Rest();
  ASSERT_TRUE(Detached(id));
  const uint64_t last = Get(id).last_sequence();
  request.set_after(last);
  const auto first = Begin(request);
  ASSERT_TRUE(first->ReadTokens(5));
  request.set_after(first->last);
  const ReadAnswer second = Generate(*stub_, request);
  EXPECT_EQ(first->Rest().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_TRUE(second.status.ok()) << second.status.error_message();
  EXPECT_EQ(second.first_sequence, first->last + 1);
  EXPECT_EQ(first->tokens.size() + second.tokens.size(), static_cast<size_t>(kTokens));
  // After, from anywhere in it.
  request.set_after(second.last_sequence - 3);
  const ReadAnswer third = Generate(*stub_, request);
  EXPECT_TRUE(third.status.ok());
  EXPECT_EQ(third.first_sequence, second.last_sequence - 2);
  EXPECT_EQ(third.last_sequence, second.last_sequence);
  EXPECT_EQ(Get(id).last_sequence(), second.last_sequence);
}

TEST_F(ResumeTest, ACallThatNamesAnotherLastEventIsRefused) {
  Start();
  const std::string id = OpenOne();
  ASSERT_TRUE(Generate(*stub_, On(id, 5)).status.ok());
  v1::GenerateRequest request = On(id, 5, "other");
  request.set_after(3);
  EXPECT_EQ(Generate(*stub_, request).status.error_code(), grpc::StatusCode::ABORTED);
  request.set_after(8);
  EXPECT_EQ(Generate(*stub_, request).status.error_code(), grpc::StatusCode::DATA_LOSS);
  request.set_after(7);
  EXPECT_TRUE(Generate(*stub_, request).status.ok());
  // A private request has no turns.
  request.clear_session_id();
  EXPECT_EQ(Generate(*stub_, request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ResumeTest, AnAppendThatIsMadeAgainFeedsNothing) {
  Start();
  const std::string id = OpenOne();
  v1::AppendRequest request;
  request.set_session_id(id);
  *request.mutable_input() = GreedyRequest({5, 6, 7}, 1).input();
  request.set_request_key("append 1");
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    v1::SessionInfo info;
    ASSERT_TRUE(sessions_->Append(&context, request, &info).ok());
    EXPECT_EQ(info.context_tokens(), 3);
    EXPECT_EQ(info.last_sequence(), 1u);
  }
}

TEST_F(ResumeTest, ASessionStreamGoesOnWithTheTurnOfOneThatWasCut) {
  Start();
  v1::SessionOpen open;
  open.set_keep(true);
  open.set_initial_credit(1048576);
  std::vector<int32_t> tokens;
  uint64_t last = 0;
  {
    SessionClient client(*stub_);
    open.set_session_id(client.Open(open).session_id());
    client.StartGenerate({3, 4}, kTokens);
    v1::SessionResponse event;
    while (tokens.size() < 7 && client.Read(event)) {
      last = event.sequence() + (event.has_tokens() ? event.tokens().tokens_size() - 1 : 0);
      for (const v1::Token& token : event.tokens().tokens()) tokens.push_back(token.id());
    }
  }
  ASSERT_TRUE(Detached(open.session_id()));
  SessionClient client(*stub_);
  open.set_resume_after(last);
  const v1::SessionOpened opened = client.Open(open);
  EXPECT_TRUE(opened.turn_active());
  EXPECT_GE(opened.last_sequence(), last);
  const ReadAnswer rest = client.ReadTurn();
  EXPECT_EQ(rest.first_sequence, last + 1);
  tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
  EXPECT_EQ(tokens, OracleTokens({3, 4}, kTokens));
  client.StartGenerate({}, 3);
  EXPECT_EQ(client.ReadTurn().first_sequence, rest.last_sequence + 1);
}

TEST_F(ResumeTest, AStreamThatLostItsTurnLeavesTheSessionToTheNewer) {
  Start();
  SessionClient client(*stub_);
  const std::string id =
      client.Open({}).session_id();  // not kept: closed when its stream breaks off
  client.StartGenerate({3, 4}, kTokens);
  v1::SessionResponse event;
  while (client.Read(event) && !event.has_tokens()) {
  }
  const ReadAnswer answer = Resume(*stub_, id, 0);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.tokens, OracleTokens({3, 4}, kTokens));
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Get(id).context_tokens(), 2 + kTokens);
}

TEST_F(ResumeTest, WhatASessionStreamCannotResumeIsAnErrorAndNotItsEnd) {
  Start();
  const std::string id = OpenOne();
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_session_id(id);
  open.set_resume_after(5);
  client.Open(open);
  v1::SessionResponse event;
  ASSERT_TRUE(client.Read(event) && event.has_error()) << event.ShortDebugString();
  EXPECT_EQ(event.error().code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(event.sequence(), 0u);
  client.StartGenerate({3, 4}, 3);
  EXPECT_EQ(client.ReadTurn().tokens, OracleTokens({3, 4}, 3));
}

TEST_F(ResumeTest, WithoutAWindowATurnEndsWithItsReader) {
  TestServerOptions options = WithWindow();
  options.engine.resume_window = absl::ZeroDuration();
  Start(options);
  const std::string id = OpenOne();
  const auto first = Begin(On(id));
  ASSERT_TRUE(first->ReadTokens(3));
  first->context.TryCancel();
  first->Rest();
  EXPECT_TRUE(
      Eventually(absl::Seconds(1), [&] { return Get(id).state() == v1::SESSION_STATE_IDLE; }));
}

}  // namespace
}  // namespace gma::testing
