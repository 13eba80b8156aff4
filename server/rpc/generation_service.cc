// Generation, and the services that are not there yet (server/rpc/services.h).
#include "server/rpc/generate_call.h"
#include "server/rpc/services.h"
#include "server/rpc/session_call.h"
#include "server/rpc/unimplemented.h"

namespace gma {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateCall::Start(env_, context, *request);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Resume(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateCall::StartResume(env_, context, *request);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* GenerationService::Session(
    grpc::CallbackServerContext* context) {
  return SessionCall::Start(env_, context);
}

grpc::ServerWriteReactor<v1::ScoreResponse>* ScoringService::Score(grpc::CallbackServerContext*,
                                                                   const v1::ScoreRequest*) {
  return new UnimplementedStream<grpc::ServerWriteReactor<v1::ScoreResponse>>("Scoring.Score");
}

grpc::ServerUnaryReactor* InspectionService::InspectSession(grpc::CallbackServerContext* context,
                                                            const v1::InspectSessionRequest*,
                                                            v1::InspectSessionResponse*) {
  return UnimplementedUnary(context, "Inspection.InspectSession");
}

}  // namespace gma
