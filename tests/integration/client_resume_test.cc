// The client library on a network that cuts its connections after random numbers of bytes: every
// answer is the undisturbed one, and nothing is fed, lost or repeated behind the application's
// back.
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/lib/client.h"
#include "gtest/gtest.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tcp_proxy.h"

namespace gma::testing {
namespace {

using client::AnswerStream;
using client::Client;
using client::ClientOptions;

constexpr int64_t kCuts = 50;  // a test
constexpr int64_t kNever = int64_t{1} << 60;
// Few enough that a connection can carry them all: a private answer begins anew in each.
constexpr int64_t kPrivateTokens = 60;

class ClientResumeTest : public ::testing::Test {
 protected:
  ClientResumeTest() {
    TestServerOptions options;
    options.engine.resume_window = absl::Minutes(10);
    server_ = std::make_unique<TestServer>(options);
    proxy_ = std::make_unique<TcpProxy>(server_->port(), [this] { return Budget(); });
    client_ = NewClient(absl::Seconds(60));
  }
  ~ClientResumeTest() override { client_.reset(); }

  std::unique_ptr<Client> NewClient(absl::Duration resume_for) const {
    ClientOptions options;
    options.address = absl::StrCat("127.0.0.1:", proxy_->port());
    options.resume_for = resume_for;
    return *Client::Create(options);
  }
  // Some connections end in their greeting, some within a request, most within an answer.
  int64_t Budget() {
    if (!cutting_ || proxy_->cuts() >= kCuts) return kNever;
    return random_() % 4 == 0 ? 20 + random_() % 600 : 400 + random_() % 3000;
  }
  static v1::Input Tokens(const std::vector<int32_t>& ids) {
    v1::Input input;
    input.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
    return input;
  }
  // The token ids to the end of the answer.
  static absl::StatusOr<std::vector<int32_t>> Read(AnswerStream& answer) {
    std::vector<int32_t> ids;
    for (;;) {
      auto piece = answer.Next();
      if (!piece.ok()) return piece.status();
      if (!piece->has_value()) return ids;
      for (const v1::Token& token : (*piece)->tokens) ids.push_back(token.id());
    }
  }
  static void Add(std::vector<int32_t>& all, const std::vector<int32_t>& more) {
    all.insert(all.end(), more.begin(), more.end());
  }

  std::mt19937 random_{std::random_device()()};
  std::atomic<bool> cutting_{true};
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TcpProxy> proxy_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientResumeTest, PrivateAnswers) {
  for (int32_t i = 0; proxy_->cuts() < kCuts; ++i) {
    const std::vector<int32_t> prompt = {i % kFakeVocab, 4};
    const auto answer = client_->Generate(GreedyRequest(prompt, kPrivateTokens));
    const auto ids = Read(*answer);
    ASSERT_THAT(ids, IsOk());
    ASSERT_EQ(*ids, OracleTokens(prompt, kPrivateTokens)) << i;
  }
}

TEST_F(ClientResumeTest, PrivateAnswersWithASeedOfTheServer) {
  for (int32_t i = 0; proxy_->cuts() < kCuts; ++i) {
    v1::GenerateRequest request = GreedyRequest({7, i % kFakeVocab}, kPrivateTokens);
    request.mutable_sampling()->set_temperature(1);
    const auto answer = client_->Generate(request);
    const auto ids = Read(*answer);
    ASSERT_THAT(ids, IsOk());
    request.mutable_sampling()->set_seed(answer->started().seed());
    const auto stub = v1::Generation::NewStub(server_->NewChannel());
    ASSERT_EQ(*ids, Generate(*stub, request).tokens);
  }
}

TEST_F(ClientResumeTest, AnswersAndAppendsOnASession) {
  cutting_ = false;
  const auto session = client_->CreateSession({});
  ASSERT_THAT(session, IsOk());
  cutting_ = true;
  proxy_->CutAll();
  std::vector<int32_t> all;
  uint64_t events = 0;
  while (proxy_->cuts() < kCuts) {
    const std::vector<int32_t> input = {static_cast<int32_t>(all.size() % kFakeVocab), 5, 6};
    v1::AppendRequest append;
    append.set_session_id(session->session_id());
    *append.mutable_input() = Tokens(input);
    const auto info = client_->AppendToSession(append);
    ASSERT_THAT(info, IsOk());
    Add(all, input);
    ASSERT_EQ(info->context_tokens(), static_cast<int64_t>(all.size()));

    v1::GenerateRequest request = GreedyRequest({9}, 200);
    request.set_session_id(session->session_id());
    const auto answer = client_->Generate(request);
    const auto ids = Read(*answer);
    ASSERT_THAT(ids, IsOk());
    all.push_back(9);
    ASSERT_EQ(*ids, OracleTokens(all, 200));
    Add(all, *ids);
    events += 1 + 1 + 200 + 1;
  }
  const auto info = client_->GetSession(session->session_id());
  ASSERT_THAT(info, IsOk());
  EXPECT_EQ(info->last_sequence(), events);
  EXPECT_EQ(info->context_tokens(), static_cast<int64_t>(all.size()));
}

TEST_F(ClientResumeTest, AConversationOnAStream) {
  cutting_ = false;
  v1::SessionOpen open;
  open.set_keep(true);
  open.set_initial_credit(32);
  const auto session = client_->OpenSession(open);
  ASSERT_THAT(session, IsOk());
  cutting_ = true;
  proxy_->CutAll();
  std::vector<int32_t> all;
  int resumes = 0;
  while (proxy_->cuts() < kCuts) {
    const std::vector<int32_t> input = {static_cast<int32_t>(all.size() % kFakeVocab), 5, 6};
    const auto appended = (*session)->Append(Tokens(input));
    ASSERT_THAT(appended, IsOk());
    Add(all, input);
    ASSERT_EQ(*appended, static_cast<int64_t>(all.size()));
    v1::SessionGenerate command;
    const v1::GenerateRequest request = GreedyRequest({9}, 200);
    *command.mutable_input() = request.input();
    *command.mutable_sampling() = request.sampling();
    *command.mutable_stop() = request.stop();
    const auto answer = (*session)->Generate(command);
    const auto ids = Read(*answer);
    ASSERT_THAT(ids, IsOk());
    all.push_back(9);
    ASSERT_EQ(*ids, OracleTokens(all, 200));
    Add(all, *ids);
    resumes += answer->resumes();
  }
  EXPECT_GT(resumes, 0);
  EXPECT_FALSE((*session)->broken());
  const auto tokens = (*session)->End();
  ASSERT_THAT(tokens, IsOk());
  EXPECT_EQ(*tokens, static_cast<int64_t>(all.size()));
}

TEST_F(ClientResumeTest, ResumeByItself) {
  cutting_ = false;
  const auto session = client_->CreateSession({});
  ASSERT_THAT(session, IsOk());
  v1::GenerateRequest request = GreedyRequest({3, 4}, 5000);
  request.set_session_id(session->session_id());
  uint64_t last = 0;
  std::vector<int32_t> ids;
  {
    // An application that dies in the middle; another one goes on where it was.
    const auto answer = client_->Generate(request);
    while (ids.size() < 20) {
      const auto piece = answer->Next();
      ASSERT_TRUE(piece.ok() && piece->has_value());
      for (const v1::Token& token : (*piece)->tokens) ids.push_back(token.id());
    }
    last = answer->last_sequence();
    EXPECT_EQ(last, ids.size() + 1);
  }
  cutting_ = true;
  proxy_->CutAll();
  const auto rest = client_->ResumeSession(session->session_id(), last);
  const auto more = Read(*rest);
  ASSERT_THAT(more, IsOk());
  Add(ids, *more);
  EXPECT_EQ(ids, OracleTokens({3, 4}, 5000));
  // Nothing is left.
  const auto nothing = client_->ResumeSession(session->session_id(), 5002);
  EXPECT_EQ(*Read(*nothing), std::vector<int32_t>());
  const auto future = client_->ResumeSession(session->session_id(), 6000);
  EXPECT_EQ(Read(*future).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(ClientResumeTest, WithoutItTheBreakIsTheError) {
  const auto plain = NewClient(absl::ZeroDuration());
  int broken = 0;
  for (int i = 0; i < 20; ++i) {
    const auto ids = Read(*plain->Generate(GreedyRequest({3, 4}, 1000)));
    if (!ids.ok()) {
      ++broken;
      EXPECT_TRUE(client::BrokeOff(ids.status())) << ids.status();
    }
  }
  EXPECT_GT(broken, 0);
}

TEST_F(ClientResumeTest, AStreamWithoutKeepEndsWithItsConnection) {
  cutting_ = false;
  const auto session = client_->OpenSession({});
  ASSERT_THAT(session, IsOk());
  proxy_->CutAll();
  EXPECT_FALSE((*session)->Append(Tokens({1, 2})).ok());
  EXPECT_TRUE((*session)->broken());
}

TEST_F(ClientResumeTest, ACancelledTurnStaysCancelled) {
  cutting_ = false;
  v1::SessionOpen open;
  open.set_keep(true);
  open.set_initial_credit(8);
  const auto session = client_->OpenSession(open);
  ASSERT_THAT(session, IsOk());
  v1::SessionGenerate command;
  const v1::GenerateRequest request = GreedyRequest({3, 4}, 1000000);
  *command.mutable_input() = request.input();
  *command.mutable_stop() = request.stop();
  *command.mutable_sampling() = request.sampling();
  const auto answer = (*session)->Generate(command);
  ASSERT_TRUE(answer->Next().ok());
  proxy_->CutAll();
  answer->Cancel();
  const auto ids = Read(*answer);
  ASSERT_THAT(ids, IsOk());
  EXPECT_EQ(answer->finished().at(0).reason(), v1::FINISH_REASON_CANCELLED);
}

}  // namespace
}  // namespace gma::testing
