// The real program with a small real model: how it starts, refuses to start, serves and stops.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "nlohmann/json.hpp"
#include "tests/integration/server_fixture.h"
#include "tests/integration/server_process.h"
#include "tests/support/temp_dir.h"

namespace gma::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

v1::GenerateRequest ChatRequest(const std::string& text, int64_t max_tokens) {
  v1::GenerateRequest request;
  v1::ChatMessage& message = *request.mutable_input()->mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(text);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

// Listens on a port of the system's choice for as long as it lives.
class TakenPort {
 public:
  TakenPort() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }
  ~TakenPort() { close(fd_); }
  const std::string& address() const { return address_; }

 private:
  int fd_;
  std::string address_;
};

TEST(BinaryTest, WhatCannotStartSaysWhyInOneLineAndExitsWithTwo) {
  const TakenPort taken;
  const TempDir broken;
  std::filesystem::copy(kModel, broken.path(), std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(broken.File("model.safetensors"), 1000);
  const std::string open_key = broken.Write("open.key", std::string(32, 'k'));
  std::filesystem::permissions(open_key, std::filesystem::perms(0644));
  const std::string free = "--listen=127.0.0.1:0", metrics = "--metrics_listen=127.0.0.1:0";
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--no_such_flag"}, "--no_such_flag"},
      {{}, "--model"},
      {{free, metrics, "--model", "/no/such/model"}, "/no/such/model"},
      {{free, metrics, "--model", broken.path()}, "model.safetensors"},
      {{"--model", kModel, "--max_sessions", "0"}, "--max_sessions"},
      {{free, metrics, "--model", kModel, "--device", "abacus"}, "--device is \"abacus\""},
      {{"--model", kModel, "--listen", taken.address()}, taken.address()},
      {{free, "--model", kModel, "--metrics_listen", taken.address()}, taken.address()},
      {{"--model", kModel, "--listen", "0.0.0.0:0"}, "--insecure_remote"},
      {{free, metrics, "--model", kModel, "--state_key", open_key}, "must have mode 0600"},
      {{free, metrics, "--model", kModel, "--state_key", "/no/such/folder/key"}, "--state_key: "},
      {{free, metrics, "--model", kModel, "--port_file", "/no/such/folder/ports"},
       "--port_file: cannot write /no/such/folder/ports: No such file or directory"},
  };
  for (const auto& [flags, part] : cases) {
    ServerProcess process(flags);
    EXPECT_EQ(process.ExitCode(absl::Seconds(60)), 2) << part;
    const std::string log = process.Log();
    EXPECT_THAT(log, AllOf(StartsWith("gma-server: "), HasSubstr(part)));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  }
}

TEST(BinaryTest, ServesARealModelAndTwoServersNeverShareAPort) {
  Serving serving;
  EXPECT_TRUE(serving.Healthy());
  const ReadAnswer answer = Generate(*serving.stub, ChatRequest("Hello", 12));
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.size(), 12u);
  EXPECT_FALSE(answer.text.empty());
  v1::GenerateRequest again = ChatRequest("Hello", 12);
  again.mutable_sampling()->set_seed(answer.started->seed());
  EXPECT_EQ(Generate(*serving.stub, again).tokens, answer.tokens);
  ServerProcess second(
      {"--model", kModel, "--listen", absl::StrCat("127.0.0.1:", serving.grpc_port)});
  EXPECT_EQ(second.ExitCode(absl::Seconds(60)), 2);
  EXPECT_THAT(second.Log(), HasSubstr("Address already in use"));
}

TEST(BinaryTest, SigtermDrains) {
  Serving serving;
  grpc::ClientContext context;
  const auto reader = serving.stub->Generate(&context, ChatRequest("Count", 500));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  serving.process->Signal(SIGTERM);
  EXPECT_TRUE(Eventually(absl::Seconds(10), [&] { return !serving.Healthy(); }));
  const ReadAnswer refused = Generate(*serving.stub, ChatRequest("late", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  bool finished = false;
  while (reader->Read(&event)) finished = finished || event.has_finished();
  EXPECT_TRUE(finished);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(serving.process->ExitCode(absl::Seconds(30)), 0);
  EXPECT_THAT(serving.process->Log(), AllOf(HasSubstr("\"draining\""), HasSubstr("\"stopped\"")));
}

TEST(BinaryTest, ASecondSignalCutsTheDrainShort) {
  Serving serving;
  grpc::ClientContext context;
  const auto reader = serving.stub->Generate(&context, ChatRequest("Count", 1000000));
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  serving.process->Signal(SIGINT);
  EXPECT_EQ(serving.process->ExitCode(absl::Seconds(1)), -1);  // it waits for the answer
  serving.process->Signal(SIGINT);
  EXPECT_EQ(serving.process->ExitCode(absl::Seconds(10)), 0);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(BinaryTest, LogsNeverHoldTextOrKeysAndEveryLineIsJson) {
  Serving serving({"--log_level", "debug"});
  v1::GenerateRequest request = ChatRequest("canary-text\n{\"level\":\"forged\"}\x1b[31m", 5);
  request.mutable_stop()->add_stop_strings("canary-stop");
  EXPECT_TRUE(Generate(*serving.stub, request).status.ok());
  request.mutable_input()->mutable_chat()->mutable_messages(0)->set_role("canary-role");
  EXPECT_FALSE(Generate(*serving.stub, request).status.ok());
  request.set_model("canary-model");
  EXPECT_FALSE(Generate(*serving.stub, request).status.ok());
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer canary-key");
  Generate(*serving.stub, request, context);
  serving.process->Signal(SIGTERM);
  EXPECT_EQ(serving.process->ExitCode(absl::Seconds(30)), 0);
  const std::string log = serving.process->Log();
  EXPECT_THAT(log, AllOf(Not(HasSubstr("canary")), Not(HasSubstr("forged"))));
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  }
}

}  // namespace
}  // namespace gma::testing
