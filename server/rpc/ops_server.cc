#include "server/rpc/ops_server.h"

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "CivetServer.h"
#include "absl/strings/str_cat.h"
#include "base/process_memory.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace gma {
namespace {

void Reply(mg_connection* connection, const char* status, const char* type,
           const std::string& body) {
  const std::string head =
      absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type,
                   "\r\nContent-Length: ", body.size(), "\r\nCache-Control: no-store\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  mg_write(connection, body.data(), body.size());
}

class MetricsHandler final : public CivetHandler {
 public:
  explicit MetricsHandler(Metrics& metrics) : metrics_(metrics) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    metrics_.resident_memory_bytes->Set(static_cast<double>(ResidentBytes()));
    Reply(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8",
          prometheus::TextSerializer().Serialize(metrics_.registry->Collect()));
    return true;
  }

 private:
  Metrics& metrics_;
};

class LiveHandler final : public CivetHandler {
 public:
  bool handleGet(CivetServer*, mg_connection* connection) override {
    Reply(connection, "200 OK", "text/plain", "live\n");
    return true;
  }
};

class ReadyHandler final : public CivetHandler {
 public:
  enum class State { kStarting, kReady, kDraining };
  std::atomic<State> state{State::kStarting};
  bool handleGet(CivetServer*, mg_connection* connection) override {
    switch (state.load()) {
      case State::kStarting:
        Reply(connection, "503 Service Unavailable", "text/plain", "not ready\n");
        break;
      case State::kReady:
        Reply(connection, "200 OK", "text/plain", "ready\n");
        break;
      case State::kDraining:
        Reply(connection, "404 Not Found", "text/plain", "draining\n");
        break;
    }
    return true;
  }
};

class OpsServerImpl final : public OpsServer {
 public:
  OpsServerImpl(const ListenAddress& listen, Metrics& metrics)
      : metrics_(metrics),
        server_(std::vector<std::string>{"listening_ports", listen.ToString(), "num_threads", "2",
                                         "enable_directory_listing", "no", "request_timeout_ms",
                                         "10000"}) {
    server_.addHandler("/metrics", metrics_);
    server_.addHandler("/healthz", live_);
    server_.addHandler("/readyz", ready_);
  }

  int port() const override { return server_.getListeningPorts().front(); }
  void SetReady(bool ready) override {
    ready_.state = ready ? ReadyHandler::State::kReady : ReadyHandler::State::kDraining;
  }

 private:
  MetricsHandler metrics_;
  LiveHandler live_;
  ReadyHandler ready_;
  mutable CivetServer server_;  // its getters are not const; the last to be made, the first to go
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpsServer>> OpsServer::Start(const ListenAddress& listen,
                                                            Metrics& metrics) {
  // A library that reports a port in use by an exception.
  try {
    return std::unique_ptr<OpsServer>(std::make_unique<OpsServerImpl>(listen, metrics));
  } catch (const CivetException&) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", listen.ToString(), " for metrics"));
  }
}

}  // namespace gma
