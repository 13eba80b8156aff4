// Generation.Generate, Models and what is not there yet, over gRPC on loopback.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gma/v1/inspection.grpc.pb.h"
#include "gma/v1/scoring.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/integration/server_fixture.h"

namespace gma::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class GenerationTest : public ::testing::Test {
 protected:
  void Start(TestServerOptions options = {}) {
    server_ = std::make_unique<TestServer>(std::move(options));
    channel_ = server_->NewChannel();
    stub_ = v1::Generation::NewStub(channel_);
  }

  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

TEST_F(GenerationTest, StreamsTheAnswerOfTheModel) {
  Start();
  const ReadAnswer answer = Generate(*stub_, GreedyRequest({1, 2, 3}, 40));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.tokens, ElementsAreArray(OracleTokens({1, 2, 3}, 40)));
  EXPECT_TRUE(answer.sequence_ok);
  ASSERT_TRUE(answer.started.has_value() && answer.finished.has_value());
  EXPECT_EQ(answer.started->model(), "fake");
  EXPECT_EQ(answer.started->model_fingerprint().size(), 64u);
  EXPECT_EQ(answer.finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.finished->usage().prompt_tokens(), 3);
  EXPECT_EQ(answer.finished->usage().completion_tokens(), 40);
  EXPECT_GE(answer.finished->timings().first_token_seconds(), 0);
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
}

TEST_F(GenerationTest, ManyAtOnceEachGetTheirOwnAnswer) {
  Start();
  std::vector<std::thread> clients;
  for (int32_t i = 1; i <= 24; ++i) {
    clients.emplace_back([this, i] {
      const ReadAnswer answer = Generate(*stub_, GreedyRequest({i, 2 * i}, 30));
      // More of them than rows: late ones wait or are told to come back.
      if (answer.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) return;
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_THAT(answer.tokens, ElementsAreArray(OracleTokens({i, 2 * i}, 30)));
      EXPECT_TRUE(answer.sequence_ok);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server_->RowsBecome(0, absl::Seconds(1)));
}

TEST_F(GenerationTest, CandidatesOfOnePromptAreToldApart) {
  Start();
  v1::GenerateRequest request = GreedyRequest({5, 6}, 12);
  request.set_n(3);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  std::vector<std::vector<int32_t>> tokens(3);
  int finished = 0;
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
    for (const v1::Token& token : event.tokens().tokens()) {
      tokens.at(event.tokens().candidate()).push_back(token.id());
    }
    finished += event.has_finished();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(finished, 3);
  for (const auto& answer : tokens) EXPECT_THAT(answer, ElementsAreArray(OracleTokens({5, 6}, 12)));
}

TEST_F(GenerationTest, SeedsAreEchoedAndDrawnWhenAbsent) {
  Start();
  v1::GenerateRequest request = GreedyRequest({1}, 1);
  request.mutable_sampling()->set_seed(0xFFFFFFFFFFFFFFFF);
  EXPECT_EQ(Generate(*stub_, request).started->seed(), 0xFFFFFFFFFFFFFFFF);
  request.mutable_sampling()->clear_seed();
  EXPECT_NE(Generate(*stub_, request).started->seed(), Generate(*stub_, request).started->seed());
}

TEST_F(GenerationTest, BadFieldsAreRefusedByName) {
  Start();
  v1::GenerateRequest request = GreedyRequest({1}, 1);
  request.mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  const ReadAnswer nan = Generate(*stub_, request);
  EXPECT_EQ(nan.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(nan.status.error_message(),
              AllOf(HasSubstr("sampling.temperature"), HasSubstr("nan"), HasSubstr("[0, 100]")));
  const ReadAnswer unknown = Generate(*stub_, GreedyRequest({kFakeVocab}, 1));
  EXPECT_EQ(unknown.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(unknown.status.error_message(), HasSubstr("input.tokens.ids[0] is 61"));
}

TEST_F(GenerationTest, BytesThatAreNoRequestAreNeverOk) {
  Start();
  for (const std::string& bytes : {std::string("\xff\xff\xff"), std::string("\x0a\xff\x7f"),
                                   std::string("\x0a\x02\xc3\x28")}) {
    grpc::GenericStub generic(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto call = generic.PrepareCall(&context, "/gma.v1.Generation/Generate", &queue);
    const grpc::Slice slice(bytes);
    grpc::ByteBuffer request(&slice, 1), answer;
    grpc::Status status;
    void* tag = nullptr;
    bool ok = false;
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    call->WriteLast(request, grpc::WriteOptions(), nullptr);
    queue.Next(&tag, &ok);
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
  }
}

TEST_F(GenerationTest, AMessageBeyondTheSizeLimitIsRefused) {
  Start();
  v1::GenerateRequest request;
  request.mutable_input()->set_text(std::string(5 << 20, 'x'));
  EXPECT_EQ(Generate(*stub_, request).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerationTest, HeartbeatsFillTheSilence) {
  TestServerOptions options;
  options.step_time = absl::Milliseconds(500);
  options.heartbeat = absl::Milliseconds(100);
  Start(options);
  const ReadAnswer answer = Generate(*stub_, GreedyRequest({1}, 2));
  EXPECT_TRUE(answer.status.ok());
  EXPECT_GE(answer.heartbeats, 2);
  EXPECT_TRUE(answer.sequence_ok);
}

TEST_F(GenerationTest, ModelsTellWhatThereIs) {
  Start();
  const auto models = v1::Models::NewStub(channel_);
  v1::ModelInfo info;
  grpc::ClientContext get;
  ASSERT_TRUE(models->Get(&get, {}, &info).ok());
  EXPECT_EQ(info.name(), "fake");
  EXPECT_EQ(info.session_capacity(), 8);
  EXPECT_EQ(info.vocab_size(), kFakeVocab);
  EXPECT_FALSE(info.has_chat_format());
  v1::ListModelsResponse list;
  grpc::ClientContext list_context;
  ASSERT_TRUE(models->List(&list_context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  v1::GetModelRequest other;
  other.set_model("other");
  grpc::ClientContext unknown;
  EXPECT_EQ(models->Get(&unknown, other, &info).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GenerationTest, TokenizeAndDetokenizeAreInverse) {
  Start();
  const auto models = v1::Models::NewStub(channel_);
  v1::TokenizeRequest text;
  text.set_text(std::string("any bytes \xff\x00 <|end|>", 20));
  v1::TokenizeResponse ids;
  grpc::ClientContext tokenize;
  ASSERT_TRUE(models->Tokenize(&tokenize, text, &ids).ok());
  v1::DetokenizeRequest back;
  *back.mutable_ids() = ids.ids();
  v1::DetokenizeResponse restored;
  grpc::ClientContext detokenize;
  ASSERT_TRUE(models->Detokenize(&detokenize, back, &restored).ok());
  EXPECT_EQ(restored.text(), text.text());
  back.add_ids(-1);
  grpc::ClientContext bad;
  EXPECT_EQ(models->Detokenize(&bad, back, &restored).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  text.set_text(std::string(1048577, 'x'));
  grpc::ClientContext large;
  EXPECT_EQ(models->Tokenize(&large, text, &ids).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GenerationTest, WhatIsNotThereYetSaysSo) {
  Start();
  const auto expect = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_THAT(status.error_message(), HasSubstr("not there yet"));
  };
  grpc::ClientContext contexts[2];
  const auto scored = v1::Scoring::NewStub(channel_)->Score(&contexts[0], v1::ScoreRequest());
  v1::ScoreResponse score;
  EXPECT_FALSE(scored->Read(&score));
  expect(scored->Finish());
  v1::InspectSessionResponse inspected;
  expect(v1::Inspection::NewStub(channel_)->InspectSession(&contexts[1], {}, &inspected));
}

}  // namespace
}  // namespace gma::testing
