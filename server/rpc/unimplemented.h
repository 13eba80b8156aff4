// Answers of the RPCs that are in the API and not there yet.
#ifndef GMA_SERVER_RPC_UNIMPLEMENTED_H_
#define GMA_SERVER_RPC_UNIMPLEMENTED_H_

#include <string>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "grpcpp/support/status.h"

namespace gma {

inline grpc::Status NotThereYet(const std::string& method) {
  return {grpc::StatusCode::UNIMPLEMENTED,
          method + " is in the API and not there yet; this server does not implement it"};
}

inline grpc::ServerUnaryReactor* UnimplementedUnary(grpc::CallbackServerContext* context,
                                                    const std::string& method) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(NotThereYet(method));
  return reactor;
}

// A streaming call that ends at once. Deletes itself when gRPC is done with it.
template <typename Reactor>
class UnimplementedStream final : public Reactor {
 public:
  explicit UnimplementedStream(const std::string& method) { this->Finish(NotThereYet(method)); }
  void OnDone() override { delete this; }
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_UNIMPLEMENTED_H_
