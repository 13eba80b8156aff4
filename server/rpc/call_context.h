// What every call needs: the parts of the server, who the caller is, how errors go back.
#ifndef GMA_SERVER_RPC_CALL_CONTEXT_H_
#define GMA_SERVER_RPC_CALL_CONTEXT_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "grpcpp/support/status.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "server/options/api_keys.h"
#include "server/rpc/dispatcher.h"
#include "server/rpc/owner_slots.h"
#include "server/rpc/served_model.h"
#include "server/session/snapshot.h"

namespace gma {

// Borrowed parts, alive as long as the gRPC server. THREADS: immutable.
struct RpcEnvironment {
  Engine& engine;
  const ServedModel& model;
  const Clock& clock;
  Metrics& metrics;
  Dispatcher& dispatcher;
  OwnerSlots& moves;         // exports and imports: each holds a whole session in memory
  const ApiKeys* api_keys;   // null: every caller is the owner "local"
  absl::Duration heartbeat;  // silence after which a stream sends a Heartbeat
  SnapshotScope snapshots;
};

// The owner that the call's API key stands for.
// ERRORS: kUnauthenticated.
absl::StatusOr<std::string> OwnerOf(const grpc::CallbackServerContext& context,
                                    const RpcEnvironment& env);

// The client's deadline on the monotonic clock; infinite without one.
absl::Duration DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock);

// gRPC's form of a status; a retry hint becomes the trailing metadata `retry-after-ms`.
// REQUIRES: called once, before the call is finished.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context);

// Counts a request that was refused before the engine saw it, and returns its status.
absl::Status Refused(absl::Status status, const RpcEnvironment& env);

// A seed for requests that bring none.
uint64_t RandomSeed();

// The one answer of a unary call. Move-only: whoever holds it owes the answer, and one that is
// dropped (because the server is stopping) answers UNAVAILABLE.
class UnaryReply {
 public:
  explicit UnaryReply(grpc::CallbackServerContext* context)
      : context_(context), reactor_(context->DefaultReactor()) {}
  UnaryReply(UnaryReply&& other) noexcept
      : context_(other.context_), reactor_(std::exchange(other.reactor_, nullptr)) {}
  UnaryReply& operator=(UnaryReply&&) = delete;
  ~UnaryReply();

  grpc::ServerUnaryReactor* reactor() const { return reactor_; }
  void Finish(const absl::Status& status) &&;

 private:
  grpc::CallbackServerContext* context_;
  grpc::ServerUnaryReactor* reactor_;  // gRPC's own; null: answered
};

// Serves a unary call: `begin(reply)` refuses with a status, or moves the reply on, to be answered
// now or later, and returns OK.
template <typename Begin>
grpc::ServerUnaryReactor* ServeUnary(grpc::CallbackServerContext* context,
                                     const RpcEnvironment& env, Begin begin) {
  UnaryReply reply(context);
  grpc::ServerUnaryReactor* reactor = reply.reactor();
  absl::Status refusal = begin(reply);
  if (!refusal.ok()) std::move(reply).Finish(Refused(std::move(refusal), env));
  return reactor;
}

}  // namespace gma

#endif  // GMA_SERVER_RPC_CALL_CONTEXT_H_
