// The flags about the store of sessions, and what survives.
#ifndef GMA_SERVER_OPTIONS_STORE_FLAGS_H_
#define GMA_SERVER_OPTIONS_STORE_FLAGS_H_

#include "absl/status/status.h"
#include "server/options/server_options.h"

namespace CLI {
class App;
}  // namespace CLI

namespace gma {

void AddStoreFlags(CLI::App& app, ServerOptions& options);
// ERRORS: kInvalidArgument for flags that contradict each other.
absl::Status CheckStoreFlags(const ServerOptions& options);

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_STORE_FLAGS_H_
