// The services of gma.v1 over the engine.
#ifndef GMA_SERVER_RPC_SERVICES_H_
#define GMA_SERVER_RPC_SERVICES_H_

#include "gma/v1/generation.grpc.pb.h"
#include "gma/v1/inspection.grpc.pb.h"
#include "gma/v1/models.grpc.pb.h"
#include "gma/v1/scoring.grpc.pb.h"
#include "gma/v1/sessions.grpc.pb.h"
#include "server/rpc/call_context.h"

namespace gma {

// All methods take raw bytes (see FromBytes).
class GenerationService final
    : public v1::Generation::WithRawCallbackMethod_Generate<
          v1::Generation::WithRawCallbackMethod_Resume<
              v1::Generation::WithRawCallbackMethod_Session<v1::Generation::Service>>> {
 public:
  explicit GenerationService(RpcEnvironment& env) : env_(env) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Resume(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  RpcEnvironment& env_;
};

class SessionsService final : public v1::Sessions::CallbackService {
 public:
  explicit SessionsService(RpcEnvironment& env) : env_(env) {}

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  Unary* Open(Context* context, const v1::OpenSessionRequest* request,
              v1::SessionInfo* response) override;
  Unary* Get(Context* context, const v1::GetSessionRequest* request,
             v1::SessionInfo* response) override;
  Unary* List(Context* context, const v1::ListSessionsRequest* request,
              v1::ListSessionsResponse* response) override;
  Unary* Append(Context* context, const v1::AppendRequest* request,
                v1::SessionInfo* response) override;
  Unary* Close(Context* context, const v1::CloseSessionRequest* request,
               v1::CloseSessionResponse* response) override;

  Unary* Fork(Context* context, const v1::ForkRequest* request, v1::SessionInfo* response) override;
  Unary* Checkpoint(Context* context, const v1::CheckpointRequest* request,
                    v1::CheckpointInfo* response) override;
  Unary* ListCheckpoints(Context* context, const v1::ListCheckpointsRequest* request,
                         v1::ListCheckpointsResponse* response) override;
  Unary* DeleteCheckpoint(Context* context, const v1::DeleteCheckpointRequest* request,
                          v1::DeleteCheckpointResponse* response) override;
  Unary* Rewind(Context* context, const v1::RewindRequest* request,
                v1::SessionInfo* response) override;
  Unary* Pin(Context* context, const v1::PinRequest* request, v1::SessionInfo* response) override;
  grpc::ServerWriteReactor<v1::StateChunk>* Export(Context* context,
                                                   const v1::ExportRequest* request) override;
  grpc::ServerReadReactor<v1::StateChunk>* Import(Context* context,
                                                  v1::SessionInfo* response) override;

 private:
  RpcEnvironment& env_;
};

class ModelsService final : public v1::Models::CallbackService {
 public:
  explicit ModelsService(RpcEnvironment& env) : env_(env) {}

  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;
  Unary* List(Context* context, const v1::ListModelsRequest* request,
              v1::ListModelsResponse* response) override;
  Unary* Get(Context* context, const v1::GetModelRequest* request,
             v1::ModelInfo* response) override;
  Unary* Tokenize(Context* context, const v1::TokenizeRequest* request,
                  v1::TokenizeResponse* response) override;
  Unary* Detokenize(Context* context, const v1::DetokenizeRequest* request,
                    v1::DetokenizeResponse* response) override;

 private:
  RpcEnvironment& env_;
};

// Not there yet: both answer UNIMPLEMENTED and say so.
class ScoringService final : public v1::Scoring::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::ScoreResponse>* Score(grpc::CallbackServerContext* context,
                                                     const v1::ScoreRequest*) override;
};

class InspectionService final : public v1::Inspection::CallbackService {
 public:
  grpc::ServerUnaryReactor* InspectSession(grpc::CallbackServerContext* context,
                                           const v1::InspectSessionRequest*,
                                           v1::InspectSessionResponse*) override;
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_SERVICES_H_
