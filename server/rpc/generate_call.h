// Generation.Generate and Generation.Resume: one request, its events, the end.
#ifndef GMA_SERVER_RPC_GENERATE_CALL_H_
#define GMA_SERVER_RPC_GENERATE_CALL_H_

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/convert.h"
#include "server/rpc/events.h"
#include "server/rpc/stream_call.h"

namespace gma {

// THREADS: Start is called on one of gRPC's threads, where the request is read and tokenised;
// everything else runs on the dispatcher's.
class GenerateCall final : public ReactorCall<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  // The reactors delete themselves when gRPC is done with them.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(RpcEnvironment& env,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer& bytes);
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* StartResume(
      RpcEnvironment& env, grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes);

 private:
  using ReactorCall::ReactorCall;

  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Begin(
      RpcEnvironment& env, grpc::CallbackServerContext* context,
      absl::FunctionRef<absl::Status(GenerateCall&)> read);
  absl::Status Read(const grpc::ByteBuffer& bytes);
  absl::Status ReadResume(const grpc::ByteBuffer& bytes);
  void Submit();

  void Refill() final;
  void Abandon() final;
  void SendHeartbeat() final;

  std::variant<GenerateSpec, ResumeSpec> spec_;
  AnswerLabels labels_;
  std::shared_ptr<TokenStream> stream_;  // null: not submitted yet, or let go
  std::vector<StreamEvent> events_;      // scratch
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_GENERATE_CALL_H_
