#include "tests/chaos/replicas.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "client/lib/client.h"
#include "tests/chaos/state_opener.h"

namespace gma::chaos {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Replicas::Replicas(const std::vector<std::string>& flags)
    : redis_(testing::RedisServer::Start(/*tcp=*/true)) {
  GMA_CHECK(redis_ != nullptr);  // tools/debian-packages.txt has it
  const std::string key = directory_.File("key");
  std::vector<std::string> all = {
      "--redis",        absl::StrCat("redis://127.0.0.1:", redis_->port()),
      "--state_key",    key,
      "--max_sessions", "16"};
  all.insert(all.end(), flags.begin(), flags.end());
  for (size_t i = 0; i < kCount; ++i) {
    replicas_[i] = std::make_unique<ServerRunner>(
        GMA_SERVER_BINARY, GMA_CHAOS_MODEL, directory_.path(), absl::StrCat("replica", i), all);
  }
  reference_ = std::make_unique<ServerRunner>(
      GMA_SERVER_BINARY, GMA_CHAOS_MODEL, directory_.path(), "reference",
      std::vector<std::string>{"--state_key", key, "--max_sessions", "256", "--prefix_bytes", "0"});
}

absl::Status Replicas::Start() {
  GMA_ASSIGN_OR_RETURN(open_state_, MakeStateOpener(GMA_CHAOS_MODEL, directory_.File("key")));
  proxy_ = std::make_unique<Child>(
      std::vector<std::string>{"/usr/sbin/haproxy", "-f", WriteProxyConfig()},
      directory_.File("haproxy.log"));
  reference_->process().Start();
  for (const auto& replica : replicas_) replica->process().Start();
  GMA_RETURN_IF_ERROR(reference_->WaitUntilServing());
  for (const auto& replica : replicas_) GMA_RETURN_IF_ERROR(replica->WaitUntilServing());
  proxy_->Start();
  client::ClientOptions options;
  options.address = proxy_address();
  GMA_ASSIGN_OR_RETURN(const auto client, client::Client::Create(options));
  const absl::Status serves = client->WaitUntilServing("", absl::Seconds(30)).status();
  if (serves.ok()) return serves;
  return absl::UnavailableError(
      absl::StrCat(serves.message(), "; HAProxy: ", Read(directory_.File("haproxy.log"))));
}

std::string Replicas::WriteProxyConfig() const {
  std::string config = Read(GMA_HAPROXY_CONFIG);
  const auto replace = [&config](const std::string& from, int port) {
    GMA_CHECK(absl::StrContains(config, from));
    const std::string before = from.substr(0, from.find_last_of(" :") + 1);
    absl::StrReplaceAll({{from, absl::StrCat(before, port)}}, &config);
  };
  replace("bind 127.0.0.1:50050", proxy_port_);
  for (size_t i = 0; i < kCount; ++i) {
    replace(absl::StrCat("127.0.0.1:", 50051 + i), replicas_[i]->grpc_port());
    replace(absl::StrCat("check port ", 9464 + i), replicas_[i]->metrics_port());
  }
  return directory_.Write("haproxy.cfg", config);
}

std::string Replicas::proxy_address() const { return absl::StrCat("127.0.0.1:", proxy_port_); }

std::string Replicas::addresses() const {
  return absl::StrCat(replicas_[0]->address(), ",", replicas_[1]->address(), ",",
                      replicas_[2]->address());
}

double Replicas::Sum(const std::string& metric) const {
  double sum = 0;
  for (const auto& replica : replicas_) sum += std::max(0.0, replica->Metric(metric));
  return sum;
}

double Replicas::Max(const std::string& metric) const {
  double most = 0;
  for (const auto& replica : replicas_) most = std::max(most, replica->Metric(metric));
  return most;
}

int64_t Replicas::CountInLogs(const std::string& text) const {
  int64_t count = 0;
  for (const auto& replica : replicas_) {
    const std::string log = Read(replica->process().log());
    for (size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1)) ++count;
  }
  return count;
}

}  // namespace gma::chaos
