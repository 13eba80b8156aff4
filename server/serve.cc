#include "server/serve.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/process_memory.h"
#include "base/status_macros.h"
#include "server/engine/engine.h"
#include "server/engine/keeper.h"
#include "server/loaded_model.h"
#include "server/metrics/metrics.h"
#include "server/process_signals.h"
#include "server/rpc/ops_server.h"
#include "server/rpc/rpc_server.h"
#include "server/session/snapshot.h"
#include "server/store/file_store.h"
#include "server/store/redis_store.h"

namespace gma {
namespace {

// What gRPC may take to end its calls; a frozen client would make it minutes.
constexpr absl::Duration kRpcGrace = absl::Seconds(1);
constexpr absl::Duration kWatchdogMargin = absl::Seconds(15);
// Instead of it, where every session is written to a store: some gigabytes, to a slow disk.
constexpr absl::Duration kSaveMargin = absl::Seconds(60);

// What runs. Made and stopped on the main thread.
struct Parts {
  RealClock clock;
  std::unique_ptr<SessionStore> store;  // until the engine has it; null: there is none
  LoadedModel model;
  absl::Duration load_time;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<OpsServer> ops;
  std::unique_ptr<RpcServer> rpc;
};

absl::Status ProbePorts(const ServerOptions& options) {
  GMA_RETURN_IF_ERROR(ProbePort("--listen", options.listen));
  GMA_RETURN_IF_ERROR(ProbePort("--metrics_listen", options.metrics_listen));
  if (options.listen.port == 0 || options.listen.port != options.metrics_listen.port) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--metrics_listen is ", options.metrics_listen.ToString(),
                   ", must have another port than --listen, which is ", options.listen.ToString()));
}

TokenTextFunction TokenText(const Tokenizer& tokenizer) {
  return [&tokenizer](int32_t token) -> std::string_view {
    // The model may have more rows than the tokenizer has names.
    if (token >= tokenizer.vocab_size() || tokenizer.IsSpecial(token)) return {};
    return tokenizer.TokenBytes(token);
  };
}

RowEncoding EncodingOf(const ServerOptions& options) {
  return options.park_format == "bf16" ? RowEncoding::kBfloat16 : RowEncoding::kFloat32;
}

Durability DurabilityOf(const ServerOptions& options) {
  if (options.durability == "none") return Durability::kNone;
  return options.durability == "always" ? Durability::kAlways : Durability::kInterval;
}

// Null: there is none.
absl::StatusOr<std::unique_ptr<SessionStore>> OpenStore(const ServerOptions& options,
                                                        const Clock& clock) {
  const auto named = [](const char* flag, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(flag, ": ", std::string(status.message())));
  };
  if (!options.state_dir.empty()) {
    absl::StatusOr<std::unique_ptr<FileStore>> store = FileStore::Open(
        {.directory = options.state_dir, .max_bytes = options.park_disk_bytes}, clock);
    if (!store.ok()) return named("--state_dir", store.status());
    return *std::move(store);
  }
  if (options.redis.empty()) return std::unique_ptr<SessionStore>();
  absl::StatusOr<std::unique_ptr<RedisStore>> store =
      RedisStore::Create({.address = options.redis}, clock);
  if (!store.ok()) return named("--redis", store.status());
  return *std::move(store);
}

// Bytes of the store; without one, none.
double DiskBudgetOf(const ServerOptions& options) {
  if (options.state_dir.empty() && options.redis.empty()) return 0;
  // That of Redis is Redis's own.
  const bool bounded = !options.state_dir.empty() && options.park_disk_bytes > 0;
  return bounded ? static_cast<double>(options.park_disk_bytes)
                 : std::numeric_limits<double>::infinity();
}

SnapshotScope ScopeOf(const StateKey& key, const LoadedModel& model) {
  return {.key = key,
          .fingerprint = model.served.fingerprint,
          .layout = model.decoder->state_layout(),
          .vocab_size = model.served.vocab_size};
}

absl::Status StartEngine(const ServerOptions& options, const StateKey& key, Parts& parts) {
  const ServedModel& served = parts.model.served;
  parts.metrics = Metrics::Create({.model_name = served.name,
                                   .version = served.version,
                                   .fingerprint = served.fingerprint,
                                   .device = served.device,
                                   .weights = served.weights});
  parts.metrics->model_load_seconds->Set(absl::ToDoubleSeconds(parts.load_time));
  parts.metrics->session_memory_budget->Set(static_cast<double>(options.park_memory_bytes));
  parts.metrics->session_disk_budget->Set(DiskBudgetOf(options));
  parts.metrics->model_weights_bytes->Set(static_cast<double>(parts.model.decoder->weight_bytes()));
  const EngineOptions engine_options{
      .max_sessions = options.max_sessions,
      .max_waiting = options.max_waiting,
      .max_sessions_per_owner = options.max_sessions_per_owner,
      .max_batch_rows = options.max_batch_rows,
      .max_step_tokens = options.max_step_tokens,
      .default_ttl = options.session_ttl,
      .end_tokens = served.end_tokens,
      .past = {.checkpoint_bytes = static_cast<size_t>(options.checkpoint_bytes),
               .checkpoint_tokens = options.checkpoint_tokens,
               .rewind_tokens = options.rewind_tokens},
      .prefix_bytes = static_cast<size_t>(options.prefix_bytes),
      .park_memory_bytes = options.park_memory_bytes,
      .park_format = EncodingOf(options),
      .durability = DurabilityOf(options),
      .snapshot_tokens = options.snapshot_tokens,
      .owner_disk_bytes = options.owner_disk_bytes,
      .resume_events = options.resume_events,
      .resume_window = options.resume_window};
  std::unique_ptr<Keeper> keeper;
  if (parts.store != nullptr) {
    const KeeperOptions keeper_options{.scope = ScopeOf(key, parts.model),
                                       .encoding = engine_options.park_format,
                                       .sync_interval = absl::Seconds(options.sync_seconds)};
    keeper = std::make_unique<Keeper>(keeper_options, std::move(parts.store), parts.clock,
                                      *parts.metrics);
  }
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(engine_options, *parts.model.decoder, TokenText(*parts.model.tokenizer),
                     parts.clock, *parts.metrics, std::move(keeper));
  if (!engine.ok()) {
    return absl::Status(
        engine.status().code(),
        absl::StrCat("--max_sessions is ", options.max_sessions, ": ", engine.status().message()));
  }
  parts.engine = *std::move(engine);
  parts.engine->Start();
  return absl::OkStatus();
}

absl::StatusOr<StateKey> StateKeyOf(const ServerOptions& options) {
  const std::string path = options.state_key.empty() && !options.state_dir.empty()
                               ? absl::StrCat(options.state_dir, "/state.key")
                               : options.state_key;
  if (path.empty()) return StateKey::Random();
  absl::StatusOr<StateKey> key = StateKey::LoadOrMake(path);
  if (key.ok()) return key;
  return absl::Status(key.status().code(), absl::StrCat("--state_key: ", key.status().message()));
}

absl::Status StartPorts(const ServerOptions& options, const StateKey& key, Parts& parts) {
  GMA_ASSIGN_OR_RETURN(parts.ops, OpsServer::Start(options.metrics_listen, *parts.metrics));
  const ApiKeys* keys = options.api_keys.has_value() ? &*options.api_keys : nullptr;
  GMA_ASSIGN_OR_RETURN(
      parts.rpc, RpcServer::Start({.listen = options.listen,
                                   .tls = options.tls,
                                   .api_keys = keys,
                                   .snapshots = ScopeOf(key, parts.model)},
                                  *parts.engine, parts.model.served, parts.clock, *parts.metrics));
  return absl::OkStatus();
}

// Written beside and renamed, so that a reader never sees half of it.
absl::Status WritePortFile(const std::string& path, const Parts& parts) {
  if (path.empty()) return absl::OkStatus();
  const std::string draft = absl::StrCat(path, ".", getpid());
  errno = 0;
  std::ofstream file(draft);
  file << "{\"grpc\": " << parts.rpc->port() << ", \"metrics\": " << parts.ops->port() << "}\n";
  file.close();
  if (file.good() && std::rename(draft.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  std::remove(draft.c_str());
  return absl::FailedPreconditionError(
      absl::StrCat("--port_file: cannot write ", path, ": ", std::strerror(error)));
}

void LogServing(const ServerOptions& options, const Parts& parts) {
  const ServedModel& served = parts.model.served;
  GMA_LOG(
      kInfo, "serving",
      {{"model", served.name},
       {"fingerprint", served.fingerprint},
       {"listen",
        ListenAddress{options.listen.host, static_cast<uint16_t>(parts.rpc->port())}.ToString()},
       {"metrics_listen",
        ListenAddress{options.metrics_listen.host, static_cast<uint16_t>(parts.ops->port())}
            .ToString()},
       {"grpc_port", parts.rpc->port()},
       {"metrics_port", parts.ops->port()},
       {"tls", options.tls.has_value()},
       {"api_keys", options.api_keys.has_value()},
       {"session_capacity", parts.engine->GetStatus().rows_total},
       {"state_bytes", served.state_bytes},
       {"max_batch_rows", served.max_batch_rows},
       {"max_step_tokens", served.max_step_tokens},
       {"load_seconds", absl::ToDoubleSeconds(parts.load_time)},
       {"weight_bytes", parts.model.decoder->weight_bytes()},
       {"resident_bytes", ResidentBytes()},
       {"version", served.version}});
}

// False: the model does not run on a device.
bool ShowDeviceMemory(const Parts& parts) {
  const CompiledDecoder::DeviceMemory memory = parts.model.decoder->device_memory();
  parts.metrics->device_memory_used->Set(static_cast<double>(memory.used));
  parts.metrics->device_memory_total->Set(static_cast<double>(memory.total));
  return memory.total > 0;
}

// Returns whether everything that ran has ended. The engine tells when asked, so this asks often
// enough that nobody notices.
bool WaitUntilDrained(const ServerOptions& options, const Parts& parts) {
  const absl::Duration end = parts.clock.Monotonic() + options.drain_timeout;
  while (!parts.engine->Drained()) {
    if (parts.clock.Monotonic() >= end) return false;
    if (WaitForStopSignal(absl::Milliseconds(20))) return false;
  }
  return true;
}

[[noreturn]] void DrainAndExit(const ServerOptions& options, Parts& parts) {
  const bool stores = !options.state_dir.empty() || !options.redis.empty();
  StartExitWatchdog(options.drain_timeout + (stores ? kSaveMargin : kWatchdogMargin));
  const EngineStatus status = parts.engine->GetStatus();
  GMA_LOG(kInfo, "draining",
          {{"running", status.requests_running}, {"waiting", status.requests_waiting}});
  parts.rpc->SetNotServing();
  parts.ops->SetReady(false);
  parts.engine->BeginDrain();
  const bool drained = WaitUntilDrained(options, parts);
  parts.engine->Shutdown();
  // gRPC's Shutdown waits for frozen clients beyond any deadline, so nobody waits for it: the
  // process ends while it may still be at it.
  absl::Notification closed;
  std::thread([&] {
    parts.rpc->Shutdown(kRpcGrace);
    closed.Notify();
  }).detach();
  closed.WaitForNotificationWithTimeout(kRpcGrace + absl::Seconds(1));
  GMA_LOG(kInfo, "stopped", {{"drained", drained}});
  if (!options.port_file.empty()) std::remove(options.port_file.c_str());
  _exit(0);
}

}  // namespace

absl::Status Serve(const ServerOptions& options) {
  SetLogLevel(options.log_level);
  GMA_RETURN_IF_ERROR(ProbePorts(options));
  const RealClock clock;
  GMA_ASSIGN_OR_RETURN(std::unique_ptr<SessionStore> store, OpenStore(options, clock));
  GMA_ASSIGN_OR_RETURN(const StateKey key, StateKeyOf(options));
  const absl::Duration start = clock.Monotonic();
  GMA_ASSIGN_OR_RETURN(LoadedModel model, LoadModel(options));
  Parts parts{.clock = {},
              .store = std::move(store),
              .model = std::move(model),
              .load_time = clock.Monotonic() - start,
              .metrics = nullptr,
              .engine = nullptr,
              .ops = nullptr,
              .rpc = nullptr};
  GMA_RETURN_IF_ERROR(StartEngine(options, key, parts));
  absl::Cleanup stop_engine = [&parts] { parts.engine->Shutdown(); };
  GMA_RETURN_IF_ERROR(StartPorts(options, key, parts));
  GMA_RETURN_IF_ERROR(WritePortFile(options.port_file, parts));
  CatchStopSignals();
  parts.ops->SetReady(true);
  LogServing(options, parts);
  absl::Duration look = absl::Seconds(1);
  do {
    if (!ShowDeviceMemory(parts)) look = absl::InfiniteDuration();
  } while (!WaitForStopSignal(look));
  DrainAndExit(options, parts);
}

}  // namespace gma
