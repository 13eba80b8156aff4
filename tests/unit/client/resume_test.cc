#include "client/lib/resume.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/scripted_server.h"

namespace gma::client {
namespace {

using Events = Numbered<v1::GenerateResponse>;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BrokeOff, IsWhatNoServerSays) {
  EXPECT_TRUE(BrokeOff(absl::UnavailableError("Connection reset by peer")));
  EXPECT_TRUE(BrokeOff(absl::UnknownError("No status received")));  // behind HAProxy
  EXPECT_TRUE(BrokeOff(absl::InternalError("Received RST_STREAM with error code 2")));
  EXPECT_TRUE(BrokeOff(absl::CancelledError("Received RST_STREAM with error code 8")));
  EXPECT_TRUE(BrokeOff(absl::AbortedError("the session moved to another server")));
  EXPECT_FALSE(BrokeOff(absl::AbortedError("another client resumed this turn")));
  EXPECT_FALSE(BrokeOff(absl::InternalError("non-finite logits")));
  for (const auto code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound,
        absl::StatusCode::kFailedPrecondition, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kAborted, absl::StatusCode::kOutOfRange, absl::StatusCode::kDataLoss,
        absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kUnauthenticated, absl::StatusCode::kPermissionDenied}) {
    EXPECT_FALSE(BrokeOff(absl::Status(code, ""))) << static_cast<int>(code);
  }
  EXPECT_FALSE(BrokeOff(absl::OkStatus()));
}

TEST(Retries, PausesGrowAndEnd) {
  const absl::Status why = absl::UnavailableError("");
  Retries retries(absl::Seconds(60));
  absl::Duration longest = absl::Milliseconds(50);
  for (int i = 0; i < 20; ++i) {
    const auto pause = retries.Next(why);
    ASSERT_TRUE(pause.has_value());
    EXPECT_LE(*pause, longest);
    EXPECT_GE(*pause, longest / 2);
    longest = std::min(2 * longest, absl::Seconds(2));
  }
  Retries few(absl::Milliseconds(20));
  EXPECT_FALSE(few.Next(why).has_value());  // the first pause is longer
}

// What a call is asked for, and what is let through of what comes.
class ProgressTest : public ::testing::Test {
 protected:
  static v1::GenerateRequest On(const std::string& session) {
    v1::GenerateRequest request;
    request.set_session_id(session);
    return request;
  }
  static const v1::GenerateRequest& RequestOf(const AnswerProgress& progress) {
    return std::get<v1::GenerateRequest>(progress.request());
  }
  // The ids of the tokens that are left.
  static std::vector<int32_t> Accept(AnswerProgress& progress, v1::GenerateResponse event) {
    const absl::StatusOr<bool> left = progress.Accept(event);
    EXPECT_TRUE(left.ok()) << left.status();
    std::vector<int32_t> ids;
    if (!*left) return ids;
    for (const v1::Token& token : event.tokens().tokens()) ids.push_back(token.id());
    return ids;
  }
  static v1::GenerateResponse TokensAt(uint64_t sequence, const std::vector<int32_t>& ids) {
    v1::GenerateResponse event;
    event.set_sequence(sequence);
    for (const int32_t id : ids) event.mutable_tokens()->add_tokens()->set_id(id);
    return event;
  }
};

TEST_F(ProgressTest, ATurnOfASessionKeepsItsKeyAndTellsWhatItHas) {
  AnswerProgress progress(On("abc"), /*resume=*/true);
  const std::string key = RequestOf(progress).request_key();
  EXPECT_EQ(key.size(), 16u);
  progress.Again();  // nothing came: perhaps the server never heard of it
  EXPECT_EQ(RequestOf(progress).request_key(), key);
  EXPECT_FALSE(RequestOf(progress).has_after());
  EXPECT_THAT(Accept(progress, TokensAt(11, {1, 2, 3})), ElementsAre(1, 2, 3));
  progress.Again();
  EXPECT_EQ(RequestOf(progress).request_key(), key);
  EXPECT_EQ(RequestOf(progress).after(), 13u);
}

TEST_F(ProgressTest, AnOwnKeyStays) {
  v1::GenerateRequest request = On("abc");
  request.set_request_key("mine");
  EXPECT_EQ(RequestOf(AnswerProgress(request, true)).request_key(), "mine");
  EXPECT_EQ(RequestOf(AnswerProgress(On("abc"), false)).request_key(), "");
}

TEST_F(ProgressTest, APrivateAnswerIsDrawnAgainWithItsSeedAndComparedAsFarAsItWas) {
  AnswerProgress progress(On(""), /*resume=*/true);
  EXPECT_EQ(RequestOf(progress).request_key(), "");
  v1::GenerateResponse started;
  started.set_sequence(1);
  started.mutable_started()->set_seed(77);
  started.mutable_started()->set_model_fingerprint("f");
  Accept(progress, started);
  EXPECT_THAT(Accept(progress, TokensAt(2, {5, 6, 7})), ElementsAre(5, 6, 7));
  progress.Again();
  EXPECT_EQ(RequestOf(progress).sampling().seed(), 77u);
  EXPECT_FALSE(RequestOf(progress).has_after());
  v1::GenerateResponse again = started;
  EXPECT_FALSE(*progress.Accept(again));
  EXPECT_THAT(Accept(progress, TokensAt(2, {5, 6})), IsEmpty());
  EXPECT_THAT(Accept(progress, TokensAt(4, {7, 8, 9})), ElementsAre(8, 9));
  EXPECT_THAT(Accept(progress, TokensAt(7, {10})), ElementsAre(10));
}

TEST_F(ProgressTest, AnotherAnswerOrAnotherModelIsDataLoss) {
  AnswerProgress progress(On(""), /*resume=*/true);
  v1::GenerateResponse started;
  started.set_sequence(1);
  started.mutable_started()->set_model_fingerprint("f");
  Accept(progress, started);
  Accept(progress, TokensAt(2, {5, 6, 7}));
  progress.Again();
  v1::GenerateResponse other = started;
  other.mutable_started()->set_model_fingerprint("g");
  EXPECT_EQ(progress.Accept(other).status().code(), absl::StatusCode::kDataLoss);
  v1::GenerateResponse tokens = TokensAt(2, {5, 66});
  EXPECT_EQ(progress.Accept(tokens).status().code(), absl::StatusCode::kDataLoss);
  v1::GenerateResponse end;
  end.set_sequence(3);
  end.mutable_finished();
  EXPECT_EQ(progress.Accept(end).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ProgressTest, SeveralAnswersOfOnePromptAreNotGoneOnWith) {
  v1::GenerateRequest request;
  request.set_n(2);
  EXPECT_FALSE(AnswerProgress(request, true).resumable());
  request.set_n(1);
  EXPECT_TRUE(AnswerProgress(request, true).resumable());
  EXPECT_FALSE(AnswerProgress(request, false).resumable());
}

// Over a connection. The server breaks the first call off after two tokens.
class ResumingTest : public ::testing::Test {
 protected:
  ResumingTest() {
    server.on_generate = [this](auto&, const auto& request, auto& writer) {
      requests.push_back(request);
      Events events;
      if (requests.size() == 1) {
        writer.Write(events.Started());
        writer.Write(events.Tokens("x", 2));
        return grpc::Status(grpc::StatusCode::UNKNOWN, "No status received");
      }
      if (request.has_after()) events.Next(static_cast<int>(request.after()));
      if (!request.has_after()) {
        writer.Write(events.Started());
        writer.Write(events.Tokens("x", 2));
      }
      writer.Write(events.Tokens("y"));
      writer.Write(events.Finished());
      return grpc::Status::OK;
    };
  }

  ScriptedServer server;
  std::vector<v1::GenerateRequest> requests;
};

TEST_F(ResumingTest, GoesOnWithATurnOfASession) {
  v1::GenerateRequest request;
  request.set_session_id("abc");
  const auto answer = server.client().Generate(request);
  EXPECT_EQ(*Read(*answer), "xxy");
  EXPECT_EQ(answer->resumes(), 1);
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[1].after(), 3u);
  EXPECT_EQ(requests[1].request_key(), requests[0].request_key());
}

TEST_F(ResumingTest, DrawsAPrivateAnswerAgain) {
  const auto answer = server.client().Generate(v1::GenerateRequest());
  EXPECT_EQ(*Read(*answer), "xxy");
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[1].sampling().seed(), 1u);
}

TEST_F(ResumingTest, SeveralAnswersShowTheBreak) {
  v1::GenerateRequest request;
  request.set_n(2);
  EXPECT_EQ(Read(*server.client().Generate(request)).status().code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(requests.size(), 1u);
}

TEST_F(ResumingTest, ARefusalIsNotAskedForAgain) {
  int calls = 0;
  server.on_generate = [&](auto&, auto&, auto&) {
    ++calls;
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown");
  };
  v1::GenerateRequest request;
  request.set_session_id("abc");
  EXPECT_EQ(Read(*server.client().Generate(request)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(calls, 1);
}

TEST_F(ResumingTest, ItCanBeSwitchedOff) {
  ClientOptions options = server.options();
  options.resume_for = absl::ZeroDuration();
  const auto client = *Client::Create(options);
  v1::GenerateRequest request;
  request.set_session_id("abc");
  EXPECT_EQ(Read(*client->Generate(request)).status().code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].request_key(), "");
}

TEST_F(ResumingTest, EndsWithItsTime) {
  server.on_generate = [](auto&, auto&, auto&) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is draining");
  };
  ClientOptions options = server.options();
  options.resume_for = absl::Milliseconds(300);
  const auto client = *Client::Create(options);
  const absl::Time start = absl::Now();
  const absl::Status status = Read(*client->Generate(v1::GenerateRequest())).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "the server is draining");
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(ResumingTest, CancelEndsTheWaiting) {
  server.on_generate = [](auto&, auto&, auto&) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "");
  };
  const auto answer = server.client().Generate(v1::GenerateRequest());
  std::thread thread([&] {
    absl::SleepFor(absl::Milliseconds(200));
    answer->Cancel();
  });
  EXPECT_EQ(Read(*answer).status().code(), absl::StatusCode::kCancelled);
  thread.join();
}

TEST_F(ResumingTest, GoesToTheNextServer) {
  ClientOptions options = server.options();
  options.address = "127.0.0.1:1," + options.address;
  const auto client = *Client::Create(options);
  requests.resize(1);  // this server answers at once
  EXPECT_EQ(*Read(*client->Generate(v1::GenerateRequest())), "xxy");
  EXPECT_EQ(requests.size(), 2u);
}

TEST_F(ResumingTest, SoDoExportsAndImports) {
  ClientOptions options = server.options();
  options.address = "127.0.0.1:1," + options.address;
  const auto exporter = *Client::Create(options);
  // The second server has no such calls; the first is not there.
  EXPECT_EQ(exporter->ExportSession("abc").status().code(), absl::StatusCode::kUnimplemented);
  const auto importer = *Client::Create(options);
  EXPECT_EQ(importer->ImportSession("blob").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(importer->ImportSession("blob").status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace gma::client
