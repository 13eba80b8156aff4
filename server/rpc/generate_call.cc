#include "server/rpc/generate_call.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"

namespace gma {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Start(
    RpcEnvironment& env, grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(env, context));
  call->OwnItself();
  absl::Status status = call->Read(bytes);
  call->Enqueue([status = std::move(status)](ReactorCall& self) mutable {
    auto& generate = static_cast<GenerateCall&>(self);
    if (status.ok()) return generate.Submit();
    generate.End(Refused(std::move(status), generate.env_));
    generate.Pump();
  });
  return call.get();
}

absl::Status GenerateCall::Read(const grpc::ByteBuffer& bytes) {
  GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context_, env_));
  v1::GenerateRequest request;
  GMA_RETURN_IF_ERROR(FromBytes(bytes, request));
  GMA_ASSIGN_OR_RETURN(spec_, ConvertGenerate(request, env_.model, RandomSeed()));
  spec_.owner = std::move(owner);
  spec_.deadline = DeadlineOf(*context_, env_.clock);
  labels_ = {.model = &env_.model,
             .session_id = request.session_id(),
             .logprobs = spec_.sampling.top_logprobs >= 0};
  return absl::OkStatus();
}

void GenerateCall::Submit() {
  if (over()) return Pump();
  auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
  auto stream = env_.engine.Generate(std::move(spec_), [self] {
    self->Enqueue([](ReactorCall& call) { static_cast<GenerateCall&>(call).Pump(); });
  });
  if (stream.ok()) {
    stream_ = *std::move(stream);
  } else {
    End(stream.status());
  }
  Pump();
}

void GenerateCall::Refill() {
  if (stream_ == nullptr) return;
  std::optional<absl::Status> end = stream_->TakeAll(events_);
  PackEvents<v1::GenerateResponse>(events_, labels_, sequence_,
                                   [this](v1::GenerateResponse& response) { Send(response); });
  if (!end.has_value()) return;
  stream_ = nullptr;
  End(*std::move(end));
}

void GenerateCall::Abandon() {
  if (stream_ == nullptr) return;
  env_.engine.Cancel(stream_, /*by_client=*/false);
  stream_ = nullptr;
}

void GenerateCall::SendHeartbeat() {
  v1::GenerateResponse response;
  response.set_sequence(sequence_++);
  response.mutable_heartbeat();
  Send(response);
}

}  // namespace gma
