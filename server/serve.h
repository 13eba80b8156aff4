// The program: starts the parts in their order, serves until a signal, drains, stops.
#ifndef GMA_SERVER_SERVE_H_
#define GMA_SERVER_SERVE_H_

#include "absl/status/status.h"
#include "server/options/server_options.h"

namespace gma {

// Order: ports looked at, model, engine, metrics port, gRPC port. On SIGTERM or SIGINT: health
// NOT_SERVING and /readyz 503, new work refused, what runs may finish within drain_timeout (a
// second signal cuts that short), and the process ends with code 0. Returns only when it could not
// start; nothing is left behind then.
absl::Status Serve(const ServerOptions& options);

}  // namespace gma

#endif  // GMA_SERVER_SERVE_H_
