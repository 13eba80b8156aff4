// A real redis-server of a test's own, on a Unix socket and, where asked, a free port of loopback.
#ifndef GMA_TESTS_SUPPORT_REDIS_SERVER_H_
#define GMA_TESTS_SUPPORT_REDIS_SERVER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace gma::testing {

// Keeps nothing on disk. Ends with its object, and with the test's process.
class RedisServer {
 public:
  // Null when the machine has no redis-server. `password` empty: none.
  static std::unique_ptr<RedisServer> Start(bool tcp = false, std::string password = "");
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::string unix_address() const { return "unix:" + directory_.File("redis.sock"); }
  int port() const { return port_; }

  // SIGKILL, and a start with nothing in it.
  void Kill();
  void Restart();
  // SIGSTOP and SIGCONT.
  void Freeze();
  void Thaw();
  // Runs a command and returns the reply as text: strings as they are, integers in decimal, arrays
  // joined by spaces. Errors stop the test.
  std::string Command(const std::vector<std::string>& words) const;

 private:
  RedisServer(int port, std::string password) : port_(port), password_(std::move(password)) {}

  TempDir directory_;
  const int port_;  // 0: none
  const std::string password_;
  pid_t process_ = -1;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_REDIS_SERVER_H_
