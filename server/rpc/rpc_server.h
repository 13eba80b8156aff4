// The gRPC server: the services of gma.v1, grpc.health.v1 and reflection on one port.
#ifndef GMA_SERVER_RPC_RPC_SERVER_H_
#define GMA_SERVER_RPC_RPC_SERVER_H_

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "server/engine/engine.h"
#include "server/metrics/metrics.h"
#include "server/options/server_options.h"
#include "server/rpc/served_model.h"
#include "server/session/snapshot.h"

namespace gma {

struct RpcServerOptions {
  ListenAddress listen;
  std::optional<TlsFiles> tls;
  const ApiKeys* api_keys = nullptr;  // null: no keys wanted, every caller is the owner "local"
  SnapshotScope snapshots;            // of exported sessions
  absl::Duration heartbeat = absl::Seconds(15);  // silence after which a stream says it is alive
};

// THREADS: any, one at a time.
class RpcServer {
 public:
  // Listens and answers at once.
  // REQUIRES: what is passed by reference outlives the server, and the engine was shut down before
  //           the server goes: its streams call back into calls.
  // ERRORS: kFailedPrecondition naming the address when it cannot be had.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                          Engine& engine, const ServedModel& model,
                                                          const Clock& clock, Metrics& metrics);
  virtual ~RpcServer() = default;  // ends what is left: Shutdown with no grace

  virtual int port() const = 0;
  // grpc.health.v1 answers NOT_SERVING from now on; calls go on.
  virtual void SetNotServing() = 0;
  // Ends every stream with UNAVAILABLE, cancels what is left after `grace`, and returns when gRPC
  // is done with all calls, which a frozen client can delay.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_RPC_SERVER_H_
