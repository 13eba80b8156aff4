#include "tests/support/running_server.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace gma::testing {

absl::StatusOr<std::unique_ptr<RunningServer>> RunningServer::Start(
    std::string program, std::vector<std::string> flags) {
  std::unique_ptr<RunningServer> server(new RunningServer(std::move(program), std::move(flags)));
  GMA_RETURN_IF_ERROR(server->Launch());
  return server;
}

RunningServer::RunningServer(std::string program, std::vector<std::string> flags)
    : program_(std::move(program)), flags_(std::move(flags)) {}

RunningServer::~RunningServer() { Kill(); }

absl::Status RunningServer::Launch() {
  const std::string ports = dir_.File("ports"), log = dir_.File("log");
  std::filesystem::remove(ports);
  std::vector<std::string> arguments = {program_};
  arguments.insert(arguments.end(), flags_.begin(), flags_.end());
  arguments.insert(arguments.end(),
                   {"--listen", address_, "--metrics_listen", "127.0.0.1:0", "--port_file", ports});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int error = posix_spawn(&pid_, program_.c_str(), &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    pid_ = -1;
    return absl::UnavailableError(absl::StrCat(program_, ": ", std::strerror(error)));
  }
  while (!std::filesystem::exists(ports)) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return absl::UnavailableError(absl::StrCat("gma-server ended: ", LastLogLine()));
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  std::ifstream in(ports);
  address_ = absl::StrCat("127.0.0.1:", nlohmann::json::parse(in)["grpc"].get<int>());
  return absl::OkStatus();
}

int64_t RunningServer::ResidentBytes() const {
  std::ifstream statm(absl::StrCat("/proc/", pid_, "/statm"));
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

absl::Status RunningServer::Stop() {
  kill(pid_, SIGTERM);
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("gma-server ended otherwise than asked, wait status ",
                                          status, ": ", LastLogLine()));
}

void RunningServer::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

absl::Status RunningServer::StartAgain() { return Launch(); }

std::string RunningServer::LastLogLine() const {
  std::ifstream log(dir_.File("log"));
  std::string line, last;
  while (std::getline(log, line)) last = line;
  return last;
}

}  // namespace gma::testing
