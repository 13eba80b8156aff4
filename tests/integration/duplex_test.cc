// Full duplex over gRPC on loopback: input while an answer is streamed, and barge-in.
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::SizeIs;

class DuplexTest : public ::testing::Test {
 protected:
  void Start(absl::Duration step_time) {
    TestServerOptions options;
    options.step_time = step_time;
    server_ = std::make_unique<TestServer>(std::move(options));
    channel_ = server_->NewChannel();
    stub_ = v1::Generation::NewStub(channel_);
    sessions_ = v1::Sessions::NewStub(channel_);
  }
  static v1::SessionRequest AppendOf(const std::vector<int32_t>& tokens, uint64_t request_id) {
    v1::SessionRequest request;
    request.set_request_id(request_id);
    *request.mutable_append()->mutable_input() = GreedyRequest(tokens, 1).input();
    return request;
  }
  static v1::SessionRequest CreditOf(int64_t tokens) {
    v1::SessionRequest request;
    request.mutable_credit()->set_tokens(tokens);
    return request;
  }
  // Draws greedily with inputs after so many tokens, in one pass.
  static std::vector<int32_t> OnePass(
      std::vector<int32_t> fed, const std::vector<std::pair<size_t, std::vector<int32_t>>>& inputs,
      size_t count) {
    std::vector<int32_t> drawn;
    FakeState state;
    size_t next = 0;
    while (drawn.size() < count) {
      for (; next < inputs.size() && inputs[next].first == drawn.size(); ++next) {
        fed.insert(fed.end(), inputs[next].second.begin(), inputs[next].second.end());
      }
      state.Feed(fed);
      drawn.push_back(state.NextToken());
      fed = {drawn.back()};
    }
    return drawn;
  }

  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
};

TEST_F(DuplexTest, InputEntersAnAnswerWhereTheEventsSay) {
  Start(absl::ZeroDuration());
  std::mt19937 random(5);
  size_t entered = 0;
  for (int round = 0; round < 10; ++round) {
    SessionClient client(*stub_);
    v1::SessionOpen open;
    open.set_initial_credit(3);  // the server waits for the client, and so for its input
    client.Open(open);
    constexpr size_t kTokens = 60;
    client.StartGenerate({3, 4}, kTokens);
    std::vector<std::vector<int32_t>> inputs;
    std::vector<std::pair<size_t, std::vector<int32_t>>> placed;
    std::vector<int32_t> tokens;
    uint64_t expected = 1;
    int64_t context = 2;
    v1::SessionResponse event;
    bool finished = false;
    while (!finished && client.Read(event)) {
      ASSERT_FALSE(event.has_error()) << event.error().message();
      ASSERT_EQ(event.sequence(), expected);
      expected += event.has_tokens() ? event.tokens().tokens_size() : 1;
      for (const v1::Token& token : event.tokens().tokens()) tokens.push_back(token.id());
      context += event.tokens().tokens_size();
      finished = event.has_finished();
      if (event.has_appended()) {
        ASSERT_LT(placed.size(), inputs.size());
        EXPECT_EQ(event.request_id(), 100 + placed.size());
        EXPECT_EQ(event.appended().tokens(), static_cast<int64_t>(inputs[placed.size()].size()));
        context += event.appended().tokens();
        EXPECT_EQ(event.appended().context_tokens(), context);
        placed.emplace_back(tokens.size(), inputs[placed.size()]);
      } else if (inputs.size() < 5 && random() % 3 == 0) {
        inputs.emplace_back(1 + random() % 40);
        for (int32_t& token : inputs.back()) token = static_cast<int32_t>(1 + random() % 60);
        client.Write(AppendOf(inputs.back(), 100 + inputs.size() - 1));
      }
      if (event.has_tokens()) client.Write(CreditOf(event.tokens().tokens_size()));
    }
    entered += placed.size();
    EXPECT_EQ(tokens, OnePass({3, 4}, placed, kTokens));
    // What crossed the end of the turn was an ordinary append.
    for (size_t late = placed.size(); late < inputs.size(); ++late) {
      ASSERT_TRUE(client.Read(event) && event.has_appended()) << event.ShortDebugString();
      EXPECT_EQ(event.sequence(), expected++);
      EXPECT_EQ(event.request_id(), 100 + late);
      context += static_cast<int64_t>(inputs[late].size());
      EXPECT_EQ(event.appended().context_tokens(), context);
    }
  }
  EXPECT_GE(entered, 30u);
}

TEST_F(DuplexTest, BargeInIsAnsweredByFinishedThenAppended) {
  Start(absl::Milliseconds(1));
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(1048576);
  client.Open(open);
  client.StartGenerate({3, 4}, 100000);
  std::vector<int32_t> tokens;
  v1::SessionResponse event;
  const auto take = [&] {
    for (const v1::Token& token : event.tokens().tokens()) tokens.push_back(token.id());
  };
  while (tokens.size() < 5 && client.Read(event)) take();
  v1::SessionRequest cancel;
  cancel.set_request_id(40);
  *cancel.mutable_cancel()->mutable_input() = GreedyRequest({9, 10}, 1).input();
  client.Write(cancel);
  while (client.Read(event) && !event.has_finished()) take();
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_CANCELLED);
  const uint64_t end = event.sequence();
  EXPECT_EQ(end, tokens.size() + 2);
  ASSERT_TRUE(client.Read(event) && event.has_appended()) << event.ShortDebugString();
  EXPECT_EQ(event.sequence(), end + 1);
  EXPECT_EQ(event.request_id(), 40u);
  EXPECT_EQ(event.appended().tokens(), 2);
  EXPECT_EQ(event.appended().context_tokens(), static_cast<int64_t>(2 + tokens.size() + 2));
  client.StartGenerate({}, 6);
  const ReadAnswer answer = client.ReadTurn();
  std::vector<int32_t> all = {3, 4};
  all.insert(all.end(), tokens.begin(), tokens.end());
  all.insert(all.end(), {9, 10});
  EXPECT_EQ(answer.tokens, OracleTokens(all, 6));
}

TEST_F(DuplexTest, BargeInWithoutATurnIsAnAppend) {
  Start(absl::ZeroDuration());
  SessionClient client(*stub_);
  client.Open({});
  v1::SessionRequest cancel;
  cancel.set_request_id(40);
  *cancel.mutable_cancel()->mutable_input() = GreedyRequest({9, 10}, 1).input();
  client.Write(cancel);
  v1::SessionResponse event;
  ASSERT_TRUE(client.Read(event) && event.has_appended()) << event.ShortDebugString();
  EXPECT_EQ(event.sequence(), 1u);
  EXPECT_EQ(event.appended().context_tokens(), 2);
  // Input that is none is refused, and nothing is cancelled.
  client.StartGenerate({3}, 5);
  cancel.mutable_cancel()->mutable_input()->Clear();
  client.Write(cancel);
  bool error = false, finished = false;
  while (!(error && finished) && client.Read(event)) {
    error |= event.has_error();
    if (event.has_finished()) {
      finished = true;
      EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_LENGTH);
    }
  }
  EXPECT_TRUE(error && finished);
}

TEST_F(DuplexTest, AnotherClientThatWatchesSeesTheInputToo) {
  Start(absl::ZeroDuration());
  SessionClient client(*stub_);
  v1::SessionOpen open;
  open.set_initial_credit(2);
  const std::string id = client.Open(open).session_id();
  client.StartGenerate({3, 4}, 20);
  v1::SessionResponse event;
  while (client.Read(event) && !event.has_tokens()) {
  }
  client.Write(AppendOf({8, 9}, 50));
  client.Write(CreditOf(100));
  while (client.Read(event) && !event.has_finished()) {
  }
  const ReadAnswer again = Resume(*stub_, id, 0);
  EXPECT_TRUE(again.status.ok());
  EXPECT_TRUE(again.sequence_ok);
  ASSERT_THAT(again.appended, SizeIs(1));
  EXPECT_EQ(again.tokens, OnePass({3, 4}, {{again.appended_after[0], {8, 9}}}, 20));
}

}  // namespace
}  // namespace gma::testing
