#include "server/rpc/generate_call.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"

namespace gma {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Start(
    RpcEnvironment& env, grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes) {
  return Begin(env, context, [&](GenerateCall& call) { return call.Read(bytes); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::StartResume(
    RpcEnvironment& env, grpc::CallbackServerContext* context, const grpc::ByteBuffer& bytes) {
  return Begin(env, context, [&](GenerateCall& call) { return call.ReadResume(bytes); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Begin(
    RpcEnvironment& env, grpc::CallbackServerContext* context,
    absl::FunctionRef<absl::Status(GenerateCall&)> read) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(env, context));
  call->OwnItself();
  absl::Status status = read(*call);
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
  GMA_ASSIGN_OR_RETURN(GenerateSpec spec, ConvertGenerate(request, env_.model, RandomSeed()));
  spec.owner = std::move(owner);
  spec.deadline = DeadlineOf(*context_, env_.clock);
  labels_ = {.model = &env_.model, .session_id = request.session_id()};
  spec_ = std::move(spec);
  return absl::OkStatus();
}

absl::Status GenerateCall::ReadResume(const grpc::ByteBuffer& bytes) {
  GMA_ASSIGN_OR_RETURN(std::string owner, OwnerOf(*context_, env_));
  v1::ResumeRequest request;
  GMA_RETURN_IF_ERROR(FromBytes(bytes, request));
  GMA_ASSIGN_OR_RETURN(ResumeSpec spec, ConvertResume(request));
  spec.owner = std::move(owner);
  spec.deadline = DeadlineOf(*context_, env_.clock);
  labels_ = {.model = &env_.model, .session_id = request.session_id()};
  spec_ = std::move(spec);
  return absl::OkStatus();
}

void GenerateCall::Submit() {
  if (over()) return Pump();
  auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
  auto notify = [self] {
    self->Enqueue([](ReactorCall& call) { static_cast<GenerateCall&>(call).Pump(); });
  };
  auto* const resume = std::get_if<ResumeSpec>(&spec_);
  auto stream = resume != nullptr
                    ? env_.engine.Resume(std::move(*resume), notify)
                    : env_.engine.Generate(std::get<GenerateSpec>(std::move(spec_)), notify);
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
  PackEvents<v1::GenerateResponse>(events_, labels_,
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
  response.mutable_heartbeat();
  Send(response);
}

}  // namespace gma
