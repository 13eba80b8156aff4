// gma-server as a child process on ports that stay the same from life to life.
#ifndef GMA_TESTS_CHAOS_SERVER_RUNNER_H_
#define GMA_TESTS_CHAOS_SERVER_RUNNER_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gma::chaos {

// A TCP port of loopback that nobody listens on now.
int FreePort();

// A child process, which ends with its object and with the thread that started it.
// THREADS: one at a time.
class Child {
 public:
  // Output is added to the file `log`.
  Child(std::vector<std::string> command, std::string log);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // REQUIRES: does not run.
  void Start();
  // REQUIRES: runs.
  void Signal(int signal) const;
  // SIGKILL, and waits for the end.
  void Kill();
  // Whether it has ended; waits for that, `timeout` at most. `exit_code` is -1 after a signal.
  bool Ended(absl::Duration timeout);
  int exit_code() const { return exit_code_; }
  bool running() const { return pid_ > 0; }
  const std::string& log() const { return log_; }

 private:
  const std::vector<std::string> command_;
  const std::string log_;
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

class ServerRunner {
 public:
  // `directory`: for logs. `flags`: besides those of ports and model.
  ServerRunner(const std::string& binary, const std::string& model, const std::string& directory,
               const std::string& name, const std::vector<std::string>& flags);

  Child& process() { return process_; }
  int grpc_port() const { return grpc_port_; }
  int metrics_port() const { return metrics_port_; }
  std::string address() const;
  // ERRORS: kUnavailable, with the end of its log, when it ends or does not serve in time.
  absl::Status WaitUntilServing(absl::Duration timeout = absl::Seconds(60));
  // A page of the metrics port; empty: there was no answer.
  std::string Get(const std::string& path) const;
  // The sum of a metric over its labels; -1: the server does not answer.
  double Metric(const std::string& name) const;

 private:
  const int grpc_port_, metrics_port_;
  Child process_;
};

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_SERVER_RUNNER_H_
