// gma-server as a child process that is ended and started again, at the same address.
#ifndef GMA_TESTS_SUPPORT_RUNNING_SERVER_H_
#define GMA_TESTS_SUPPORT_RUNNING_SERVER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/temp_dir.h"

namespace gma::testing {

// Killed when it goes. THREADS: one at a time.
class RunningServer {
 public:
  // Starts it on ports of loopback that are free and waits until it serves. `flags`: --model and
  // what else it is to have.
  // ERRORS: kUnavailable with the last line of its log when it ends instead.
  static absl::StatusOr<std::unique_ptr<RunningServer>> Start(std::string program,
                                                              std::vector<std::string> flags);
  ~RunningServer();
  RunningServer(const RunningServer&) = delete;
  RunningServer& operator=(const RunningServer&) = delete;

  const std::string& address() const { return address_; }  // host:port of gRPC
  int64_t ResidentBytes() const;                           // of the process

  // SIGTERM, and waits for its end. ERRORS: kInternal for another exit code than 0.
  absl::Status Stop();
  // SIGKILL.
  void Kill();
  // After Stop or Kill, at the same port. ERRORS: as Start.
  absl::Status StartAgain();

 private:
  RunningServer(std::string program, std::vector<std::string> flags);
  absl::Status Launch();
  std::string LastLogLine() const;

  const std::string program_;
  const std::vector<std::string> flags_;
  const TempDir dir_;
  std::string address_ = "127.0.0.1:0";
  pid_t pid_ = -1;  // -1: it does not run
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_RUNNING_SERVER_H_
