// The port for operators, over HTTP: /metrics for Prometheus, /healthz (the process lives),
// /readyz (200: it takes new requests; 503: not yet; 404: not any more, and what runs goes on, as
// HAProxy's disable-on-404 has it).
#ifndef GMA_SERVER_RPC_OPS_SERVER_H_
#define GMA_SERVER_RPC_OPS_SERVER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/metrics/metrics.h"
#include "server/options/listen_address.h"

namespace gma {

// THREADS: any.
class OpsServer {
 public:
  // Answers at once, /readyz with 503.
  // REQUIRES: `metrics` outlives the server.
  // ERRORS: kFailedPrecondition naming the address when it cannot be had.
  static absl::StatusOr<std::unique_ptr<OpsServer>> Start(const ListenAddress& listen,
                                                          Metrics& metrics);
  virtual ~OpsServer() = default;

  virtual int port() const = 0;
  // False after true: it drains.
  virtual void SetReady(bool ready) = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_OPS_SERVER_H_
