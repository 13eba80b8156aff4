#include "server/rpc/events.h"

#include <vector>

#include "gmock/gmock.h"
#include "tests/unit/rpc/convert_fixture.h"

namespace gma {
namespace {

using ::gma::testing::ConvertModel;

TokenEvent Token(int32_t candidate, int32_t token, std::string text) {
  return {.candidate = candidate,
          .sampled = {.token = token, .top_logprobs = {}},
          .text = std::move(text)};
}

class EventsTest : public ::testing::Test {
 protected:
  std::vector<v1::GenerateResponse> Pack(const std::vector<StreamEvent>& events) {
    std::vector<v1::GenerateResponse> messages;
    PackEvents<v1::GenerateResponse>(events, labels_, [&messages](v1::GenerateResponse& message) {
      messages.push_back(message);
    });
    return messages;
  }

  ConvertModel fixture_;
  AnswerLabels labels_{.model = &fixture_.model, .session_id = ""};
};

TEST_F(EventsTest, NeighbouringTokensOfACandidateShareAMessage) {
  const auto messages = Pack({StartedEvent{7}, Token(0, 10, "a"), Token(0, 11, "b"),
                              Token(1, 12, "c"), Token(0, 13, ""),
                              FinishedEvent{.candidate = 0,
                                            .reason = FinishReason::kLength,
                                            .text = "tail",
                                            .usage = {},
                                            .timings = {}}});
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0].started().seed(), 7u);
  EXPECT_EQ(messages[1].tokens().tokens_size(), 2);
  EXPECT_EQ(messages[1].tokens().tokens(1).text(), "b");
  EXPECT_EQ(messages[2].tokens().candidate(), 1);
  EXPECT_EQ(messages[3].tokens().tokens(0).id(), 13);
  EXPECT_EQ(messages[4].finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(messages[4].finished().text(), "tail");
}

TEST_F(EventsTest, AMessageHasTheNumberOfItsFirstEvent) {
  std::vector<StreamEvent> events = {StartedEvent{7}, Token(0, 10, "a"), Token(0, 11, "b"),
                                     Token(1, 12, "c")};
  for (size_t i = 0; i < events.size(); ++i) SetSequence(events[i], static_cast<int64_t>(57 + i));
  const auto messages = Pack(events);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].sequence(), 57u);
  EXPECT_EQ(messages[1].sequence(), 58u);
  EXPECT_EQ(messages[2].sequence(), 60u);
}

TEST_F(EventsTest, InputStandsBetweenTheTokensAndAnswersItsAppend) {
  AppendedEvent input = {.context_tokens = 9, .tokens = 4, .text = "held", .request_id = 3};
  labels_.request_id = 17;
  std::vector<v1::SessionResponse> messages;
  const auto pack = [&] {
    messages.clear();
    PackEvents<v1::SessionResponse>(
        {{Token(0, 10, "a"), input, Token(0, 11, "b")}}, labels_,
        [&](v1::SessionResponse& message) { messages.push_back(message); });
  };
  pack();
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].request_id(), 17u);
  EXPECT_EQ(messages[1].request_id(), 3u);
  EXPECT_EQ(messages[1].appended().context_tokens(), 9);
  EXPECT_EQ(messages[1].appended().tokens(), 4);
  EXPECT_EQ(messages[1].appended().text(), "held");
  EXPECT_EQ(messages[2].request_id(), 17u);
  input.request_id.reset();  // of another reader's append
  pack();
  EXPECT_EQ(messages[1].request_id(), 17u);
}

TEST_F(EventsTest, LogprobsAreSentOnlyWhenAskedForAndNameTheirTokens) {
  TokenEvent event = Token(0, kFirstByte + 'a', "a");
  event.sampled.logprob = -0.5F;
  event.sampled.top_logprobs = {{kFirstByte + 'a', -0.5F}, {299, -2}};
  EXPECT_FALSE(Pack({event})[0].tokens().tokens(0).has_logprob());
  event.logprobs = true;
  const v1::Token token = Pack({event})[0].tokens().tokens(0);
  EXPECT_EQ(token.logprob(), -0.5F);
  ASSERT_EQ(token.top_logprobs_size(), 2);
  EXPECT_EQ(token.top_logprobs(0).text(), "a");
  EXPECT_EQ(token.top_logprobs(1).text(), "");  // a row of the model without a name
}

}  // namespace
}  // namespace gma
