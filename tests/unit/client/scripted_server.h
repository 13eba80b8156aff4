// A gRPC server that says what a test tells it: the faults that the real one never has.
#ifndef GMA_TESTS_UNIT_CLIENT_SCRIPTED_SERVER_H_
#define GMA_TESTS_UNIT_CLIENT_SCRIPTED_SERVER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "client/lib/client.h"
#include "gma/v1/generation.grpc.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace gma::client {

class ScriptedServer final : public v1::Generation::Service {
 public:
  using GenerateWriter = grpc::ServerWriter<v1::GenerateResponse>;
  using SessionStream = grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>;

  ScriptedServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    options_.address = "127.0.0.1:" + std::to_string(port_);
    options_.api_key = "key";
    options_.deadline = absl::Seconds(10);
    options_.resume_for = absl::Seconds(1);
    client_ = *Client::Create(options_);
  }

  Client& client() { return *client_; }
  const ClientOptions& options() const { return options_; }

  std::function<grpc::Status(grpc::ServerContext&, const v1::GenerateRequest&, GenerateWriter&)>
      on_generate;
  std::function<grpc::Status(grpc::ServerContext&, SessionStream&)> on_session;

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        GenerateWriter* writer) override {
    return on_generate(*context, *request, *writer);
  }
  grpc::Status Session(grpc::ServerContext* context, SessionStream* stream) override {
    return on_session(*context, *stream);
  }

  int port_ = 0;
  ClientOptions options_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

// Events of one answer, numbered as a server numbers them.
template <typename Response>
class Numbered {
 public:
  explicit Numbered(uint64_t request_id = 0) : request_id_(request_id) {}

  Response Started() {
    Response response = Next(1);
    response.mutable_started()->set_seed(1);
    return response;
  }
  Response Tokens(const std::string& text, int count = 1) {
    Response response = Next(count);
    for (int i = 0; i < count; ++i) response.mutable_tokens()->add_tokens()->set_text(text);
    return response;
  }
  Response Finished(v1::FinishReason reason = v1::FINISH_REASON_LENGTH, int tokens = 0) {
    Response response = Next(1);
    response.mutable_finished()->set_reason(reason);
    response.mutable_finished()->mutable_usage()->set_completion_tokens(tokens);
    return response;
  }
  // Any other event: the caller sets it.
  Response Next(int count) {
    Response response;
    response.set_sequence(sequence_);
    sequence_ += static_cast<uint64_t>(count);
    if constexpr (std::is_same_v<Response, v1::SessionResponse>) {
      response.set_request_id(request_id_);
    }
    return response;
  }
  void Answer(uint64_t request_id) { request_id_ = request_id; }
  void Skip() { ++sequence_; }

 private:
  uint64_t sequence_ = 1, request_id_;
};

// Reads an answer to its end; its text, or why there is none.
inline absl::StatusOr<std::string> Read(AnswerStream& answer) {
  std::string text;
  for (;;) {
    absl::StatusOr<std::optional<AnswerPiece>> piece = answer.Next();
    if (!piece.ok()) return piece.status();
    if (!piece->has_value()) return text;
    text += (*piece)->text;
  }
}

}  // namespace gma::client

#endif  // GMA_TESTS_UNIT_CLIENT_SCRIPTED_SERVER_H_
