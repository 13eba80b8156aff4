#include "tests/integration/server_fixture.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/unit/tokenizer/small_tokenizer.h"

namespace gma::testing {

TestServer::TestServer(TestServerOptions options)
    : options_(std::move(options)),
      tokenizer_(*Tokenizer::Parse(SmallTokenizerJson().dump())),
      metrics_(Metrics::Create({"fake", "", "", "", ""})),
      decoder_(options_.engine.max_batch_rows, options_.engine.max_step_tokens) {
  SetLogLevel(LogLevel::kError);
  model_.name = "fake";
  model_.fingerprint = std::string(64, '0');
  model_.vocab_size = kFakeVocab;
  model_.tokenizer = tokenizer_.get();
  model_.end_tokens = options_.engine.end_tokens;
  model_.state_bytes = static_cast<int64_t>(decoder_.state_layout().row_bytes());
  decoder_.set_on_step([this](const StepBatch&) { absl::SleepFor(options_.step_time); });
  auto engine = Engine::Create(options_.engine, decoder_, FakeTokenText, clock_, *metrics_);
  GMA_CHECK(engine.ok());
  engine_ = *std::move(engine);
  engine_->Start();
  auto rpc =
      RpcServer::Start({.listen = {"127.0.0.1", 0},
                        .tls = std::nullopt,
                        .api_keys = options_.api_keys.has_value() ? &*options_.api_keys : nullptr,
                        .snapshots = {.key = StateKey::Random(),
                                      .fingerprint = model_.fingerprint,
                                      .layout = decoder_.state_layout(),
                                      .vocab_size = kFakeVocab},
                        .heartbeat = options_.heartbeat},
                       *engine_, model_, clock_, *metrics_);
  GMA_CHECK(rpc.ok());
  rpc_ = *std::move(rpc);
}

TestServer::~TestServer() {
  engine_->Shutdown();
  rpc_->Shutdown(absl::Milliseconds(100));
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port()),
                                   grpc::InsecureChannelCredentials(), arguments);
}

bool TestServer::RowsBecome(int32_t rows, absl::Duration timeout) const {
  return Eventually(timeout, [&] { return engine_->GetStatus().rows_used == rows; });
}

v1::GenerateRequest GreedyRequest(const std::vector<int32_t>& prompt, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.mutable_input()->mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

namespace {

// Takes one event of either kind of stream; `expected` is the number it must have, 0 any.
template <typename Response>
void TakeEvent(const Response& event, uint64_t& expected, ReadAnswer& answer) {
  ++answer.messages;
  if (event.has_heartbeat()) {
    ++answer.heartbeats;
    answer.sequence_ok = answer.sequence_ok && event.sequence() == 0;
    return;
  }
  answer.sequence_ok =
      answer.sequence_ok && (expected == 0 || event.sequence() == expected) && event.sequence() > 0;
  if (answer.first_sequence == 0) answer.first_sequence = event.sequence();
  expected = event.sequence() + 1;
  if (event.has_started()) {
    answer.started = event.started();
  } else if (event.has_finished()) {
    answer.finished = event.finished();
    answer.text += event.finished().text();
  } else if (event.has_appended()) {
    answer.appended.push_back(event.appended());
    answer.appended_after.push_back(answer.tokens.size());
  } else if (event.has_tokens()) {
    for (const v1::Token& token : event.tokens().tokens()) {
      answer.tokens.push_back(token.id());
      answer.text += token.text();
    }
    expected = event.sequence() + event.tokens().tokens_size();
  }
  answer.last_sequence = expected - 1;
}

}  // namespace

ReadAnswer ReadToEnd(grpc::ClientReader<v1::GenerateResponse>& reader, uint64_t expected) {
  ReadAnswer answer;
  v1::GenerateResponse event;
  while (reader.Read(&event)) TakeEvent(event, expected, answer);
  answer.status = reader.Finish();
  return answer;
}

ReadAnswer Generate(v1::Generation::Stub& stub, const v1::GenerateRequest& request,
                    grpc::ClientContext& context) {
  const auto reader = stub.Generate(&context, request);
  return ReadToEnd(*reader, request.session_id().empty() ? 1 : 0);
}

ReadAnswer Resume(v1::Generation::Stub& stub, const std::string& session_id, uint64_t after) {
  grpc::ClientContext context;
  v1::ResumeRequest request;
  request.set_session_id(session_id);
  request.set_after(after);
  const auto reader = stub.Resume(&context, request);
  return ReadToEnd(*reader, after + 1);
}

ReadAnswer Generate(v1::Generation::Stub& stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return Generate(stub, request, context);
}

std::vector<int32_t> OracleTokens(const std::vector<int32_t>& prompt, int64_t max_tokens) {
  SamplingParams sampling;
  sampling.temperature = 0;
  StopParams stop;
  stop.max_tokens = max_tokens;
  stop.ignore_eos = true;
  return AnswerOf(FakeState(), prompt, sampling, stop).tokens;
}

SessionClient::SessionClient(v1::Generation::Stub& stub, const std::string& key) {
  if (!key.empty()) context_.AddMetadata("authorization", "Bearer " + key);
  stream_ = stub.Session(&context_);
}

SessionClient::~SessionClient() {
  if (finished_) return;
  context_.TryCancel();
  v1::SessionResponse event;
  while (stream_->Read(&event)) {
  }
  stream_->Finish();
}

bool SessionClient::Read(v1::SessionResponse& response) {
  do {
    if (!stream_->Read(&response)) return false;
  } while (response.has_heartbeat());
  return true;
}

v1::SessionOpened SessionClient::Open(const v1::SessionOpen& open) {
  v1::SessionRequest request;
  *request.mutable_open() = open;
  stream_->Write(request);
  v1::SessionResponse response;
  EXPECT_TRUE(Read(response) && response.has_opened()) << response.ShortDebugString();
  return response.opened();
}

void SessionClient::StartGenerate(const std::vector<int32_t>& prompt, int64_t max_tokens) {
  v1::GenerateRequest greedy = GreedyRequest(prompt, max_tokens);
  v1::SessionRequest request;
  request.set_request_id(17);
  v1::SessionGenerate& generate = *request.mutable_generate();
  if (!prompt.empty()) *generate.mutable_input() = greedy.input();
  *generate.mutable_sampling() = greedy.sampling();
  *generate.mutable_stop() = greedy.stop();
  stream_->Write(request);
}

ReadAnswer SessionClient::ReadTurn() {
  ReadAnswer answer;
  v1::SessionResponse event;
  uint64_t expected = 0;
  while (!answer.finished.has_value() && Read(event)) {
    EXPECT_FALSE(event.has_error()) << event.error().message();
    if (event.has_error()) break;
    TakeEvent(event, expected, answer);
  }
  return answer;
}

grpc::Status SessionClient::Finish() {
  finished_ = true;
  v1::SessionResponse event;
  while (stream_->Read(&event)) {
  }
  return stream_->Finish();
}

bool Eventually(absl::Duration timeout, const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() >= end) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

}  // namespace gma::testing
