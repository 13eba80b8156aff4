// The real program as a child process, with a small real model.
#ifndef GMA_TESTS_INTEGRATION_SERVER_PROCESS_H_
#define GMA_TESTS_INTEGRATION_SERVER_PROCESS_H_

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gma/v1/generation.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/integration/server_fixture.h"
#include "tests/support/temp_dir.h"

namespace gma::testing {

inline const std::string kModel = std::string(GMA_SOURCE_DIR) + "/deploy/models/tiny/converted";

inline std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// gma-server as a child process, its standard error in a file.
class ServerProcess {
 public:
  explicit ServerProcess(const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {GMA_SERVER_BINARY};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, LogPath().c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    EXPECT_EQ(posix_spawn(&pid_, GMA_SERVER_BINARY, &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  ~ServerProcess() {
    if (running_) Signal(SIGKILL);
    if (running_) waitpid(pid_, nullptr, 0);
  }

  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, or -1 when the process goes on after `timeout` or died of a signal.
  int ExitCode(absl::Duration timeout) {
    int status = 0;
    const bool ended = Eventually(timeout, [&] { return waitpid(pid_, &status, WNOHANG) == pid_; });
    if (ended) running_ = false;
    return ended && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string LogPath() const { return dir_.File("stderr"); }
  std::string Log() const { return Slurp(LogPath()); }

 private:
  TempDir dir_;
  pid_t pid_ = -1;
  bool running_ = true;
};

// A server on free ports that has said that it serves.
class Serving {
 public:
  explicit Serving(std::vector<std::string> flags = {}, const std::string& listen = "127.0.0.1:0") {
    flags.insert(flags.end(), {"--model", kModel, "--listen", listen, "--metrics_listen",
                               "127.0.0.1:0", "--port_file", dir_.File("ports"), "--threads", "1"});
    process.emplace(flags);
    EXPECT_TRUE(Eventually(absl::Seconds(60), [&] {
      return std::filesystem::exists(dir_.File("ports")) &&
             process->Log().find("\"serving\"") != std::string::npos;
    })) << process->Log();
    const auto ports = nlohmann::json::parse(Slurp(dir_.File("ports")));
    channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", ports["grpc"].get<int>()),
                                  grpc::InsecureChannelCredentials());
    grpc_port = ports["grpc"].get<int>();
    stub = v1::Generation::NewStub(channel);
  }
  // Whether grpc.health.v1 answers SERVING. The distribution has no stubs for it; the answer is a
  // message with the status, 1 for SERVING, in field 1.
  bool Healthy() const {
    grpc::GenericStub generic(channel);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const grpc::Slice empty;
    const grpc::ByteBuffer request(&empty, 1);
    const auto call =
        generic.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
    grpc::Slice bytes;
    return status.ok() && answer.DumpToSingleSlice(&bytes).ok() && bytes.size() == 2 &&
           bytes.begin()[0] == 0x08 && bytes.begin()[1] == 1;
  }

  std::optional<ServerProcess> process;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Generation::Stub> stub;
  int grpc_port = 0;

 private:
  TempDir dir_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_INTEGRATION_SERVER_PROCESS_H_
