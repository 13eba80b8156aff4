// The flags of gma-server: one struct, read and checked before anything is started.
#ifndef GMA_SERVER_OPTIONS_SERVER_OPTIONS_H_
#define GMA_SERVER_OPTIONS_SERVER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "server/options/api_keys.h"
#include "server/options/listen_address.h"

namespace gma {

inline constexpr char kServerVersion[] = "0.1.0";

// Paths and texts of a TLS certificate chain and its key, both in PEM.
struct TlsFiles {
  std::string cert_pem, key_pem;
};

struct ServerOptions {
  std::string model;       // directory
  std::string model_name;  // what clients call it; default: the last part of the directory
  std::string device = "cpu";
  std::string decoder = "cpu";
  std::string weights;  // default: int8; f32 with the reference decoder; bf16 with device cuda
  int32_t threads = 0;  // 0: one for each processor
  bool compensated_state = false;
  bool deterministic = false;
  bool eager = false;
  bool allow_nonfinite_weights = false;

  ListenAddress listen{"127.0.0.1", 50051};
  ListenAddress metrics_listen{"127.0.0.1", 9464};
  std::string port_file;  // empty: none
  std::optional<ApiKeys> api_keys;
  std::optional<TlsFiles> tls;
  bool insecure_remote = false;
  std::string state_key;  // file; empty: state.key in state_dir, else a key of this process

  int32_t max_sessions = 128;
  int32_t max_waiting = 256;
  int32_t max_step_tokens = 64;
  int32_t max_batch_rows = 64;          // at most max_step_tokens
  int64_t checkpoint_bytes = 32 << 20;  // of one session
  int32_t checkpoint_tokens = 1024;
  int32_t rewind_tokens = 65536;
  int64_t prefix_bytes = 256 << 20;
  int32_t max_sessions_per_owner = 10000;  // in all tiers
  int64_t park_memory_bytes = int64_t{1} << 30;
  std::string park_format = "f32";  // or "bf16"
  int64_t resume_events = 65536;
  absl::Duration resume_window = absl::Seconds(60);
  absl::Duration session_ttl = absl::Minutes(30);
  std::string state_dir, redis;         // at most one; empty: no store
  std::string durability = "interval";  // or none, always
  int32_t sync_seconds = 1;
  int64_t snapshot_tokens = 4096;
  int64_t park_disk_bytes = int64_t{16} << 30;
  int64_t owner_disk_bytes = int64_t{16} << 30;
  absl::Duration drain_timeout = absl::Seconds(30);

  LogLevel log_level = LogLevel::kInfo;
};

// A text to print instead of serving: --help, --version, --print_limits.
struct PrintAndExit {
  std::string text;
};

// Reads the command line and the files of keys and certificates that it names. The model is not
// looked at and no port is opened.
// ERRORS: kInvalidArgument (or the code of a file's error), in one line that names flag, value and
// what is possible; also when the server would be reachable from other machines without TLS and API
// keys, unless --insecure_remote.
absl::StatusOr<std::variant<ServerOptions, PrintAndExit>> ParseServerOptions(
    int argc, const char* const* argv);

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_SERVER_OPTIONS_H_
