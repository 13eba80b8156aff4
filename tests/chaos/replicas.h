// Three real servers on one real Redis behind a real HAProxy with the configuration of
// deploy/haproxy, and a fourth server that nothing happens to.
#ifndef GMA_TESTS_CHAOS_REPLICAS_H_
#define GMA_TESTS_CHAOS_REPLICAS_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/chaos/application.h"
#include "tests/chaos/server_runner.h"
#include "tests/support/redis_server.h"
#include "tests/support/temp_dir.h"

namespace gma::chaos {

// THREADS: one at a time.
class Replicas {
 public:
  static constexpr size_t kCount = 3;

  // `flags`: more flags of the replicas.
  explicit Replicas(const std::vector<std::string>& flags = {});
  // Returns when all serve and HAProxy sends calls to them.
  absl::Status Start();

  ServerRunner& replica(size_t i) { return *replicas_[i]; }
  ServerRunner& reference() { return *reference_; }
  testing::RedisServer& redis() { return *redis_; }
  const OpenState& open_state() const { return open_state_; }
  // Of HAProxy, and of the replicas as a list.
  std::string proxy_address() const;
  std::string addresses() const;
  // All replicas together; -1 of one that is not there counts as 0.
  double Sum(const std::string& metric) const;
  double Max(const std::string& metric) const;
  // What the replicas' logs have of `text`.
  int64_t CountInLogs(const std::string& text) const;

 private:
  std::string WriteProxyConfig() const;

  testing::TempDir directory_;
  const std::unique_ptr<testing::RedisServer> redis_;
  std::array<std::unique_ptr<ServerRunner>, kCount> replicas_;
  std::unique_ptr<ServerRunner> reference_;
  OpenState open_state_;
  const int proxy_port_ = FreePort();
  std::unique_ptr<Child> proxy_;
};

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_REPLICAS_H_
