// The client library on a network that cuts its connections after random numbers of bytes: every
// answer is the undisturbed one, and nothing is fed, lost or repeated behind the application's
// back.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/lib/client.h"
#include "client/lib/session_call.h"
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

// Commands that nobody waits for one by one: what several threads of an application give.
class OutstandingTest : public ClientResumeTest {
 protected:
  OutstandingTest() {
    cutting_ = false;
    v1::SessionOpen open;
    open.set_keep(true);
    open.set_initial_credit(32);
    call_ = client::SessionCall::Start({targets_, no_key_, streams_, absl::Seconds(60)}, open);
    const auto opened = call_->Next(client::SessionCall::kOpenId, absl::Seconds(60));
    EXPECT_THAT(opened, IsOk());
    cutting_ = true;
    proxy_->CutAll();
  }
  ~OutstandingTest() override {
    call_->Abort();
    streams_.WaitForNone();
  }

  std::vector<std::unique_ptr<client::Target>> OneTarget() const {
    std::vector<std::unique_ptr<client::Target>> targets;
    targets.push_back(std::make_unique<client::Target>(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", proxy_->port()), grpc::InsecureChannelCredentials())));
    return targets;
  }
  uint64_t Append(const std::vector<int32_t>& ids) {
    v1::SessionRequest request;
    *request.mutable_append()->mutable_input() = Tokens(ids);
    return call_->Send(request);
  }
  uint64_t Generate(int64_t tokens) {
    const v1::GenerateRequest request = GreedyRequest({9}, tokens);
    v1::SessionRequest command;
    *command.mutable_generate()->mutable_input() = request.input();
    *command.mutable_generate()->mutable_sampling() = request.sampling();
    *command.mutable_generate()->mutable_stop() = request.stop();
    return call_->Send(command);
  }
  v1::SessionResponse Next(uint64_t id) {
    auto event = call_->Next(id, absl::Seconds(60));
    EXPECT_THAT(event, IsOk());
    return event.ok() ? *std::move(event) : v1::SessionResponse();
  }
  // Reads until the answer has so many tokens more, or to its end: then false.
  bool ReadOn(uint64_t id, size_t tokens, std::vector<int32_t>& drawn) {
    const size_t until = drawn.size() + tokens;
    while (drawn.size() < until) {
      const v1::SessionResponse event = Next(id);
      for (const v1::Token& token : event.tokens().tokens()) drawn.push_back(token.id());
      if (event.has_tokens()) call_->Grant(event.tokens().tokens_size());
      if (event.has_finished() || event.event_case() == v1::SessionResponse::EVENT_NOT_SET) break;
    }
    return drawn.size() >= until;
  }
  std::vector<int32_t> ReadAnswer(uint64_t id) {
    std::vector<int32_t> drawn;
    while (ReadOn(id, 1000, drawn)) {
    }
    call_->Forget(id);
    return drawn;
  }

  client::Targets targets_{OneTarget()};
  const std::string no_key_;
  client::StreamCount streams_;
  std::shared_ptr<client::SessionCall> call_;
};

TEST_F(OutstandingTest, AppendsAreFedOnceAndInTheirOrder) {
  std::vector<int32_t> all;
  while (proxy_->cuts() < kCuts) {
    std::vector<uint64_t> ids;
    for (int32_t i = 0; i < 6; ++i) {
      const std::vector<int32_t> input = {static_cast<int32_t>(all.size() % kFakeVocab), i};
      ids.push_back(Append(input));
      Add(all, input);
    }
    int64_t tokens = static_cast<int64_t>(all.size()) - 12;
    for (const uint64_t id : ids) {
      ASSERT_EQ(Next(id).appended().context_tokens(), tokens += 2);
      call_->Forget(id);
    }
  }
  EXPECT_GT(call_->resumes(), 0);
  EXPECT_EQ(*call_->last_sequence(), all.size() / 2);
  all.push_back(9);
  EXPECT_EQ(ReadAnswer(Generate(200)), OracleTokens(all, 200));
}

TEST_F(OutstandingTest, InputEntersItsAnswerOrComesBehindItOnce) {
  constexpr int32_t kGap = -1;
  constexpr size_t kTokens = 40;
  std::vector<int32_t> all;
  int behind = 0, within = 0;
  while (proxy_->cuts() < kCuts) {
    const size_t before = all.size();
    const uint64_t id = Generate(kTokens);
    bool goes_on = true;
    std::vector<int32_t> drawn;
    std::vector<std::pair<uint64_t, int32_t>> inputs;
    for (int32_t i = 0; i < 5; ++i) {
      inputs.emplace_back(Append({9, i, i}), i);
      // The last ones come when the server has the answer's end on its way.
      if (goes_on && random_() % 2 == 0) goes_on = ReadOn(id, random_() % 20, drawn);
    }
    if (goes_on) Add(drawn, ReadAnswer(id));
    ASSERT_EQ(drawn.size(), kTokens);
    // The inputs stand where their events say, and what was drawn between them.
    all.resize(before + 1 + kTokens + 15, kGap);
    all[before] = 9;
    for (const auto& [request_id, i] : inputs) {
      const v1::SessionResponse event = Next(request_id);
      call_->Forget(request_id);
      const auto at = static_cast<size_t>(event.appended().context_tokens() - 3);
      ASSERT_LE(at + 3, all.size());
      for (const size_t k : {0, 1, 2}) ASSERT_EQ(all[at + k], kGap);
      all[at] = 9;
      all[at + 1] = all[at + 2] = i;
      (at >= before + 1 + kTokens ? behind : within)++;
    }
    for (const int32_t token : drawn) *std::find(all.begin(), all.end(), kGap) = token;
  }
  EXPECT_GT(call_->resumes(), 0);
  EXPECT_GT(behind, 0);
  EXPECT_GT(within, 0);
  all.push_back(9);
  EXPECT_EQ(ReadAnswer(Generate(200)), OracleTokens(all, 200));
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
