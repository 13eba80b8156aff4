#include "server/rpc/ops_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The whole answer to GET `path`.
std::string Get(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

class OpsServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = OpsServer::Start({"127.0.0.1", 0}, *metrics_);
    ASSERT_TRUE(started.ok()) << started.status().ToString();
    server_ = *std::move(started);
  }
  std::unique_ptr<Metrics> metrics_ = Metrics::Create({"model", "1", "f", "cpu", "f32"});
  std::unique_ptr<OpsServer> server_;
};

TEST_F(OpsServerTest, ShowsTheMetrics) {
  metrics_->prompt_tokens->Increment(5);
  EXPECT_THAT(Get(server_->port(), "/metrics"),
              AllOf(StartsWith("HTTP/1.1 200"),
                    HasSubstr("gma_prompt_tokens_total{model_name=\"model\"} 5")));
}

TEST_F(OpsServerTest, LiveAndReadyAreTwoAnswers) {
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get(server_->port(), "/readyz"), StartsWith("HTTP/1.1 503"));
  server_->SetReady(true);
  EXPECT_THAT(Get(server_->port(), "/readyz"), StartsWith("HTTP/1.1 200"));
  server_->SetReady(false);
  EXPECT_THAT(Get(server_->port(), "/readyz"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->port(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(OpsServerTest, NothingElseIsThere) {
  EXPECT_THAT(Get(server_->port(), "/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(server_->port(), "/etc/passwd"), StartsWith("HTTP/1.1 404"));
}

TEST_F(OpsServerTest, APortInUseIsAnError) {
  EXPECT_THAT(OpsServer::Start({"127.0.0.1", static_cast<uint16_t>(server_->port())}, *metrics_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cannot listen")));
}

}  // namespace
}  // namespace gma
