#include "server/rpc/rpc_server.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/rpc/services.h"

namespace gma {
namespace {

constexpr int kMaxRequestBytes = 4 << 20;  // a million token ids fit, and nothing much larger
constexpr int kMaxMetadataBytes = 8 << 10;
constexpr int kMaxStreamsPerConnection = 128;
constexpr int kHandshakeMs = 10'000;
// A vanished client is seen after keepalive time + timeout. The timeout stays above 5 s: a healthy
// client of the synchronous API that does not read answers pings late.
constexpr int kKeepaliveTimeMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 8'000;
constexpr int kMinClientPingMs = 5'000;  // clients may ping this often, with or without calls

// gRPC's own lines become JSON lines like ours.
void LogGrpcLine(gpr_log_func_args* args) {
  GMA_LOG(kWarning, "grpc", {{"message", args->message}});
}

void RouteLibraryLogs() {
  gpr_set_log_function(&LogGrpcLine);
  // Protobuf only complains about requests that do not parse, and their senders are told.
  google::protobuf::SetLogHandler(nullptr);
}

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinClientPingMs);
  // Two servers on one port would share its connections by chance: a port in use is an error.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

std::shared_ptr<grpc::ServerCredentials> Credentials(const std::optional<TlsFiles>& tls) {
  if (!tls.has_value()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_key_cert_pairs.push_back({tls->key_pem, tls->cert_pem});
  return grpc::SslServerCredentials(options);
}

constexpr int kMovesAtOnce = 32;  // of one owner

class RpcServerImpl final : public RpcServer {
 public:
  RpcServerImpl(const RpcServerOptions& options, Engine& engine, const ServedModel& model,
                const Clock& clock, Metrics& metrics)
      : dispatcher_(std::min(options.heartbeat, absl::Seconds(1))), env_{engine,
                                                                         model,
                                                                         clock,
                                                                         metrics,
                                                                         dispatcher_,
                                                                         moves_,
                                                                         options.api_keys,
                                                                         options.heartbeat,
                                                                         options.snapshots} {}

  ~RpcServerImpl() override {
    if (server_ != nullptr) Shutdown(absl::ZeroDuration());
  }

  absl::Status Listen(const RpcServerOptions& options) {
    grpc::ServerBuilder builder;
    SetLimits(builder);
    builder.AddListeningPort(options.listen.ToString(), Credentials(options.tls), &port_);
    builder.RegisterService(&generation_);
    builder.RegisterService(&sessions_);
    builder.RegisterService(&models_);
    builder.RegisterService(&scoring_);
    builder.RegisterService(&inspection_);
    server_ = builder.BuildAndStart();
    if (server_ != nullptr && port_ != 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", options.listen.ToString()));
  }

  int port() const override { return port_; }

  void SetNotServing() override { server_->GetHealthCheckService()->SetServingStatus(false); }

  void Shutdown(absl::Duration grace) override {
    dispatcher_.EndAll();
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
    server_->Wait();
  }

 private:
  // Destroyed from the last to the first: gRPC's server is done with the services before they go,
  // and they before the dispatcher.
  Dispatcher dispatcher_;
  OwnerSlots moves_{"exports and imports", kMovesAtOnce};
  RpcEnvironment env_;
  GenerationService generation_{env_};
  SessionsService sessions_{env_};
  ModelsService models_{env_};
  ScoringService scoring_;
  InspectionService inspection_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options,
                                                            Engine& engine,
                                                            const ServedModel& model,
                                                            const Clock& clock, Metrics& metrics) {
  RouteLibraryLogs();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto server = std::make_unique<RpcServerImpl>(options, engine, model, clock, metrics);
  const absl::Status status = server->Listen(options);
  if (!status.ok()) return status;
  return std::unique_ptr<RpcServer>(std::move(server));
}

}  // namespace gma
