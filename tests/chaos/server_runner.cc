#include "tests/chaos/server_runner.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"

namespace gma::chaos {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

std::vector<std::string> CommandOf(const std::string& binary, const std::string& model,
                                   int grpc_port, int metrics_port,
                                   const std::vector<std::string>& flags) {
  std::vector<std::string> command = {binary,
                                      "--model",
                                      model,
                                      "--threads",
                                      "1",
                                      "--listen",
                                      absl::StrCat("127.0.0.1:", grpc_port),
                                      "--metrics_listen",
                                      absl::StrCat("127.0.0.1:", metrics_port)};
  command.insert(command.end(), flags.begin(), flags.end());
  return command;
}

}  // namespace

int FreePort() {
  // Below those that the system gives to connections: one of them would take it before the server
  // does, or while that one is dead.
  constexpr int kFirst = 15'000, kEnd = 32'000;
  std::random_device random;
  for (;;) {
    const int port = kFirst + static_cast<int>(random() % (kEnd - kFirst));
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    GMA_CHECK(listener >= 0);
    const sockaddr_in address = Loopback(port);
    const bool is_free =
        bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(listener);
    if (is_free) return port;
  }
}

Child::Child(std::vector<std::string> command, std::string log)
    : command_(std::move(command)), log_(std::move(log)) {}

Child::~Child() {
  if (running()) Kill();
}

void Child::Start() {
  GMA_CHECK(!running());
  std::vector<char*> arguments;
  for (const std::string& word : command_) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  GMA_CHECK(pid_ >= 0);
  if (pid_ > 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  const int log = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(arguments[0], arguments.data());
  _exit(127);
}

void Child::Signal(int signal) const {
  GMA_CHECK(running());
  kill(pid_, signal);
}

void Child::Kill() {
  Signal(SIGKILL);
  GMA_CHECK(Ended(absl::Minutes(1)));
}

bool Child::Ended(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (running()) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      pid_ = -1;
    } else if (absl::Now() > end) {
      return false;
    } else {
      absl::SleepFor(absl::Milliseconds(2));
    }
  }
  return true;
}

ServerRunner::ServerRunner(const std::string& binary, const std::string& model,
                           const std::string& directory, const std::string& name,
                           const std::vector<std::string>& flags)
    : grpc_port_(FreePort()),
      metrics_port_(FreePort()),
      process_(CommandOf(binary, model, grpc_port_, metrics_port_, flags),
               absl::StrCat(directory, "/", name, ".log")) {}

std::string ServerRunner::address() const { return absl::StrCat("127.0.0.1:", grpc_port_); }

absl::Status ServerRunner::WaitUntilServing(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (Get("/readyz").find("200 OK") == std::string::npos) {
    if (absl::Now() > end || process_.Ended(absl::ZeroDuration())) {
      std::ifstream file(process_.log());
      std::stringstream log;
      log << file.rdbuf();
      const std::string text = log.str();
      return absl::UnavailableError(
          absl::StrCat("the server does not serve: ",
                       text.substr(text.size() - std::min<size_t>(text.size(), 500))));
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return absl::OkStatus();
}

std::string ServerRunner::Get(const std::string& path) const {
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(metrics_port_);
  const timeval patience = {.tv_sec = 2, .tv_usec = 0};
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  std::string answer;
  if (connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: gma\r\nConnection: close\r\n\r\n");
    send(connection, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[8192];
    for (ssize_t size = 1; size > 0;) {
      size = recv(connection, buffer, sizeof(buffer), 0);
      if (size > 0) answer.append(buffer, static_cast<size_t>(size));
    }
  }
  close(connection);
  return answer;
}

double ServerRunner::Metric(const std::string& name) const {
  double sum = 0;
  bool found = false;
  for (const absl::string_view line : absl::StrSplit(Get("/metrics"), '\n')) {
    double value = 0;
    if (line.substr(0, line.find('{')) != name) continue;
    if (!absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) continue;
    found = true;
    sum += value;
  }
  return found ? sum : -1;
}

}  // namespace gma::chaos
