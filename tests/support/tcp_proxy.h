// A proxy on loopback that cuts connections: what a network does to a client.
#ifndef GMA_TESTS_SUPPORT_TCP_PROXY_H_
#define GMA_TESTS_SUPPORT_TCP_PROXY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gma::testing {

// THREADS: any.
class TcpProxy {
 public:
  // `budget`: asked for each connection; after so many bytes, both ways together, it is cut. The
  // first bytes are those of HTTP/2's own greeting, about a hundred.
  TcpProxy(int target_port, std::function<int64_t()> budget);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  int port() const { return port_; }
  int64_t cuts() const { return cuts_.load(); }
  // Cuts what runs now.
  void CutAll() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Connection {
    int client, server;
    int64_t budget;
    std::thread thread;
  };

  void Accept();
  void Carry(Connection& connection);

  const int target_port_;
  const std::function<int64_t()> budget_;
  int listener_, port_;
  std::atomic<int64_t> cuts_{0};
  absl::Mutex mutex_;
  std::list<Connection> connections_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread acceptor_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_TCP_PROXY_H_
