// Every metric family of the server, built once at start (docs/OPERATIONS.md, "Metrics"). Names are
// vLLM's stems with the prefix gma_; label sets are closed and never hold a session id.
// THREADS: all of it may be used from any thread; observe once a step, not once a token.
#ifndef GMA_SERVER_METRICS_METRICS_H_
#define GMA_SERVER_METRICS_METRICS_H_

#include <memory>
#include <string>

namespace gma {

struct MetricsOptions {
  std::string model_name;  // label of every family
  std::string version, fingerprint, device, weights;  // labels of gma_build_info
};

class Metrics;

}  // namespace gma

#endif  // GMA_SERVER_METRICS_METRICS_H_
