// A whole server in this process: engine with FakeDecoder on its own thread, gRPC on loopback, and
// what clients of it need. Prompts are token ids below kFakeVocab; answers are those of the oracle.
#ifndef GMA_TESTS_INTEGRATION_SERVER_FIXTURE_H_
#define GMA_TESTS_INTEGRATION_SERVER_FIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "gma/v1/generation.grpc.pb.h"
#include "gma/v1/models.grpc.pb.h"
#include "gma/v1/sessions.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/engine/engine.h"
#include "server/options/api_keys.h"
#include "server/rpc/rpc_server.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/oracle.h"

namespace gma::testing {

struct TestServerOptions {
  EngineOptions engine{.max_sessions = 8,
                       .max_waiting = 64,
                       .max_sessions_per_owner = 1000000,  // as the program has it: no quota
                       .max_batch_rows = 8,
                       .max_step_tokens = 32,
                       .default_ttl = absl::Minutes(30),
                       .stream_capacity = 64,
                       .end_tokens = {kFakeEndToken}};
  absl::Duration step_time = absl::ZeroDuration();  // that the decoder pretends to need
  absl::Duration heartbeat = absl::Seconds(15);
  std::optional<ApiKeys> api_keys;
};

class TestServer {
 public:
  explicit TestServer(TestServerOptions options = {});
  ~TestServer();

  int port() const { return rpc_->port(); }
  Engine& engine() { return *engine_; }
  RpcServer& rpc() { return *rpc_; }
  // A connection of its own.
  std::shared_ptr<grpc::Channel> NewChannel() const;
  // Rows leased now become `rows` within `timeout`.
  bool RowsBecome(int32_t rows, absl::Duration timeout) const;

 private:
  const TestServerOptions options_;
  RealClock clock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ServedModel model_;
  std::unique_ptr<Metrics> metrics_;
  FakeDecoder decoder_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RpcServer> rpc_;
};

// Greedy, past the end token, so that an answer has `max_tokens` tokens.
v1::GenerateRequest GreedyRequest(const std::vector<int32_t>& prompt, int64_t max_tokens);

// One answer as it came, with what went wrong with its numbers.
struct ReadAnswer {
  std::vector<int32_t> tokens;
  std::string text;
  std::optional<v1::Started> started;
  std::optional<v1::Finished> finished;
  int heartbeats = 0, messages = 0;
  std::vector<v1::Appended> appended;
  std::vector<size_t> appended_after;  // tokens before each of those
  uint64_t first_sequence = 0, last_sequence = 0;
  bool sequence_ok = true;
  grpc::Status status;
};

// Reads a stream of one candidate to its end. `expected`: number of its first event; 0: any.
ReadAnswer ReadToEnd(grpc::ClientReader<v1::GenerateResponse>& reader, uint64_t expected);
ReadAnswer Resume(v1::Generation::Stub& stub, const std::string& session_id, uint64_t after);
ReadAnswer Generate(v1::Generation::Stub& stub, const v1::GenerateRequest& request,
                    grpc::ClientContext& context);
ReadAnswer Generate(v1::Generation::Stub& stub, const v1::GenerateRequest& request);

// The tokens that the fake model answers greedily.
std::vector<int32_t> OracleTokens(const std::vector<int32_t>& prompt, int64_t max_tokens);

// The client's half of Generation.Session.
class SessionClient {
 public:
  explicit SessionClient(v1::Generation::Stub& stub, const std::string& key = "");
  ~SessionClient();

  // Each waits for the event that answers it; an event of another kind is a failed test.
  v1::SessionOpened Open(const v1::SessionOpen& open);
  // Sends a greedy generate command.
  void StartGenerate(const std::vector<int32_t>& prompt, int64_t max_tokens);
  bool Write(const v1::SessionRequest& request) { return stream_->Write(request); }
  bool Read(v1::SessionResponse& response);
  // Reads tokens until Finished.
  ReadAnswer ReadTurn();
  grpc::Status Finish();
  grpc::ClientContext& context() { return context_; }
  grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>& stream() { return *stream_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  bool finished_ = false;
};

// Runs `condition` until it holds, at most `timeout`.
bool Eventually(absl::Duration timeout, const std::function<bool()>& condition);

}  // namespace gma::testing

#endif  // GMA_TESTS_INTEGRATION_SERVER_FIXTURE_H_
