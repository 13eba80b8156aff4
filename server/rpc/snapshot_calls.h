// Sessions.Export and Sessions.Import: a session as one sealed blob in chunks.
#ifndef GMA_SERVER_RPC_SNAPSHOT_CALLS_H_
#define GMA_SERVER_RPC_SNAPSHOT_CALLS_H_

#include "gma/v1/sessions.pb.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/call_context.h"

namespace gma {

// Both seal and open chunk by chunk on gRPC's threads, and delete themselves when gRPC is done.
grpc::ServerWriteReactor<v1::StateChunk>* StartExport(RpcEnvironment& env,
                                                      grpc::CallbackServerContext* context,
                                                      const v1::ExportRequest& request);
grpc::ServerReadReactor<v1::StateChunk>* StartImport(RpcEnvironment& env,
                                                     grpc::CallbackServerContext* context,
                                                     v1::SessionInfo* response);

}  // namespace gma

#endif  // GMA_SERVER_RPC_SNAPSHOT_CALLS_H_
