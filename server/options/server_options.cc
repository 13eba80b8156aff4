#include "server/options/server_options.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "server/options/flag_helpers.h"
#include "server/options/limits.h"
#include "server/options/store_flags.h"

namespace gma {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;

// What the command line says, before it is turned into ServerOptions.
struct RawFlags {
  ServerOptions options;
  std::string listen = options.listen.ToString();
  std::string metrics_listen = options.metrics_listen.ToString();
  std::string session_ttl = "30m", drain_timeout = "30s", resume_window = "60s";
  std::string log_level = "info";
  std::string api_keys, tls_cert, tls_key;
  bool print_limits = false;
};

const char* DefaultWeights(const ServerOptions& options) {
  if (options.device == "cuda") return "bf16";
  return options.decoder == "cpu" ? "int8" : "f32";
}

void AddModelFlags(CLI::App& app, RawFlags& raw) {
  ServerOptions& options = raw.options;
  const std::string group = "Model";
  app.add_option("--model", options.model, "Directory of the model. Required.")
      ->option_text("DIR")
      ->group(group);
  app.add_option("--model_name", options.model_name,
                 "Name that clients use, 1 to 256 bytes. Default: the last part of --model.")
      ->option_text("NAME")
      ->group(group);
  app.add_option("--device", options.device,
                 "Where the model runs: cpu, or cuda (the first GPU; experimental, in builds with "
                 "nvcc). Default cpu.")
      ->option_text("NAME")
      ->group(group);
  app.add_option("--decoder", options.decoder,
                 "Implementation on the CPU: cpu, or reference (slow, the oracle). Default cpu.")
      ->check(CLI::IsMember({"cpu", "reference"}))
      ->option_text("NAME")
      ->group(group);
  app.add_option("--weights", options.weights,
                 "Type that matrices are kept in: f32, bf16, int8 or int4; the reference decoder "
                 "and device cuda have f32 and bf16. Default int8 (reference: f32, cuda: bf16).")
      ->check(CLI::IsMember({"f32", "bf16", "int8", "int4"}))
      ->option_text("TYPE")
      ->group(group);
  AddInteger(app, "--threads", options.threads, 0, 1024,
             "Threads of the model; 0 is one for each processor.")
      ->group(group);
  app.add_flag("--compensated_state", options.compensated_state,
               "Keep a compensation term beside the memory: twice the bytes, errors under 1e-6 at "
               "any length.")
      ->group(group);
  app.add_flag("--deterministic", options.deterministic,
               "An answer's bits depend on its own tokens alone, on any device; slower on cuda, "
               "always so on the CPU.")
      ->group(group);
  app.add_flag("--eager", options.eager,
               "On cuda: launch every kernel of a step by itself, without graphs.")
      ->group(group);
  app.add_flag("--allow_nonfinite_weights", options.allow_nonfinite_weights,
               "Load a checkpoint that holds NaN or infinite values.")
      ->group(group);
}

void AddNetworkFlags(CLI::App& app, RawFlags& raw) {
  const std::string group = "Network and security";
  app.add_option(
         "--listen", raw.listen,
         "Address of the gRPC services; port 0 picks a free one. Default " + raw.listen + ".")
      ->option_text("HOST:PORT")
      ->group(group);
  app.add_option("--metrics_listen", raw.metrics_listen,
                 "Address of /metrics, /healthz and /readyz (HTTP); port 0 picks a free one. "
                 "Default " +
                     raw.metrics_listen + ".")
      ->option_text("HOST:PORT")
      ->group(group);
  app.add_option("--port_file", raw.options.port_file,
                 "Once serving, write the ports there: {\"grpc\": N, \"metrics\": N}.")
      ->option_text("FILE")
      ->group(group);
  app.add_option("--api_keys", raw.api_keys,
                 "Lines owner:sha256-of-the-key in hex; calls then need the header "
                 "\"authorization: Bearer KEY\".")
      ->option_text("FILE")
      ->group(group);
  app.add_option("--tls_cert", raw.tls_cert, "Certificate chain (PEM). Needs --tls_key.")
      ->option_text("FILE")
      ->group(group);
  app.add_option("--tls_key", raw.tls_key, "Private key (PEM). Needs --tls_cert.")
      ->option_text("FILE")
      ->group(group);
  app.add_flag("--insecure_remote", raw.options.insecure_remote,
               "Allow other machines to connect without TLS and API keys, and to read the metrics.")
      ->group(group);
}

// Of sessions that nobody is using, and of turns that nobody reads.
void AddParkingFlags(CLI::App& app, RawFlags& raw) {
  ServerOptions& options = raw.options;
  const std::string group = "Capacity";
  AddInteger(app, "--max_sessions_per_owner", options.max_sessions_per_owner, 1, 1000000,
             "Sessions and private requests of one owner, parked ones included.")
      ->group(group);
  AddInteger(app, "--park_memory_bytes", options.park_memory_bytes, 0, int64_t{1} << 40,
             "Bytes of host memory for the rows of idle sessions that made room in the pool, and "
             "for all checkpoints; 0 parks none and keeps no checkpoint.")
      ->group(group);
  app.add_option("--park_format", options.park_format,
                 "Numbers of a parked row: f32, exact, or bf16, half the bytes and rounded. "
                 "Default f32.")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->option_text("TYPE")
      ->group(group);
  app.add_option("--resume_window", raw.resume_window,
                 "Time that a session's turn whose reader is gone waits for a Resume; 0s ends it "
                 "at once. Range [0s, 1h], default 60s.")
      ->option_text("TIME")
      ->group(group);
  AddInteger(app, "--resume_events", options.resume_events, 1, 1 << 20,
             "Events of a session's last turn that Resume can send again, the last ones.")
      ->group(group);
}

void AddCapacityFlags(CLI::App& app, RawFlags& raw) {
  ServerOptions& options = raw.options;
  const std::string group = "Capacity";
  AddInteger(app, "--max_sessions", options.max_sessions, 1, 1000000,
             "State rows: sessions and private requests that can be served at once; more sessions "
             "are parked.")
      ->group(group);
  AddInteger(app, "--max_waiting", options.max_waiting, 1, 1000000,
             "Requests accepted and not scheduled yet.")
      ->group(group);
  AddInteger(app, "--max_step_tokens", options.max_step_tokens, 1, 65536,
             "Tokens in one step, all rows together; bounds the stall that a long prompt causes.")
      ->group(group);
  AddInteger(app, "--max_batch_rows", options.max_batch_rows, 1, 65536,
             "Sessions in one step; lowered to --max_step_tokens and --max_sessions.")
      ->group(group);
  AddInteger(app, "--checkpoint_bytes", options.checkpoint_bytes, 0, int64_t{1} << 40,
             "Bytes of host memory for the checkpoints of one session; 0 keeps none.")
      ->group(group);
  AddInteger(
      app, "--checkpoint_tokens", options.checkpoint_tokens, 0, 1000000000,
      "A checkpoint is made after so many tokens, besides those at the ends of turns; 0 makes "
      "none.")
      ->group(group);
  AddInteger(
      app, "--rewind_tokens", options.rewind_tokens, 0, 100000000,
      "Token ids that a session remembers, to be fed again when it is rewound; 4 bytes each.")
      ->group(group);
  AddInteger(app, "--prefix_bytes", options.prefix_bytes, 0, int64_t{1} << 40,
             "Bytes of host memory for states that later requests can begin with; 0 keeps none.")
      ->group(group);
  AddParkingFlags(app, raw);
  app.add_option("--session_ttl", raw.session_ttl,
                 "Idle time until a session expires, such as 90s, 30m or 12h. Range [1s, 168h], "
                 "default 30m.")
      ->option_text("TIME")
      ->group(group);
  app.add_option("--drain_timeout", raw.drain_timeout,
                 "After SIGTERM, time that running requests have to finish. Range [0s, 1h], "
                 "default 30s.")
      ->option_text("TIME")
      ->group(group);
}

void AddGeneralFlags(CLI::App& app, RawFlags& raw) {
  const std::string group = "General";
  app.add_option("--log_level", raw.log_level,
                 "Lines to log: debug, info, warning or error. Default info.")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->option_text("LEVEL")
      ->group(group);
  app.set_version_flag("--version", std::string("gma-server ") + kServerVersion,
                       "Print the version and exit.")
      ->group(group);
  app.set_help_flag("--help", "Print this and exit.")->group(group);
  // For docs/OPERATIONS.md; no group hides it from --help.
  app.add_flag("--print_limits", raw.print_limits)->group("");
}

absl::StatusOr<absl::Duration> ParseTime(const std::string& flag, const std::string& text,
                                         absl::Duration min, absl::Duration max) {
  absl::Duration value;
  // A comparison with NaN is not possible here: durations are integers inside.
  if (absl::ParseDuration(text, &value) && min <= value && value <= max) return value;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": is \"", text, "\", must be a time such as 90s, 30m or 12h in [",
                   absl::FormatDuration(min), ", ", absl::FormatDuration(max), "]"));
}

absl::StatusOr<std::string> ReadFileOfFlag(const std::string& flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxPemBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(flag, ": ", text.status().message()));
}

// gRPC only says "no port" about a bad pair, so OpenSSL looks at it first.
absl::Status CheckTlsFiles(const std::string& cert, const std::string& key) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()),
                                                                  &SSL_CTX_free);
  if (SSL_CTX_use_certificate_chain_file(context.get(), cert.c_str()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("--tls_cert: ", cert, " is no PEM certificate"));
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_key: ", key, " is no PEM key that fits the certificate"));
  }
  return absl::OkStatus();
}

absl::Status ReadSecurityFiles(const RawFlags& raw, ServerOptions& options) {
  if (raw.tls_cert.empty() != raw.tls_key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(raw.tls_cert.empty() ? "--tls_cert" : "--tls_key",
                     " is missing: --tls_cert and --tls_key need each other"));
  }
  if (!raw.tls_cert.empty()) {
    TlsFiles tls;
    GMA_ASSIGN_OR_RETURN(tls.cert_pem, ReadFileOfFlag("--tls_cert", raw.tls_cert));
    GMA_ASSIGN_OR_RETURN(tls.key_pem, ReadFileOfFlag("--tls_key", raw.tls_key));
    GMA_RETURN_IF_ERROR(CheckTlsFiles(raw.tls_cert, raw.tls_key));
    options.tls = std::move(tls);
  }
  if (!raw.api_keys.empty()) {
    absl::StatusOr<ApiKeys> keys = ApiKeys::Load(raw.api_keys);
    if (!keys.ok()) {
      return absl::Status(keys.status().code(),
                          absl::StrCat("--api_keys: ", keys.status().message()));
    }
    options.api_keys = *std::move(keys);
  }
  return absl::OkStatus();
}

// Defaults are closed: what other machines can reach has TLS and keys, or a flag that says not.
absl::Status CheckExposure(const ServerOptions& options) {
  GMA_ASSIGN_OR_RETURN(const bool grpc_is_local, IsLoopback("--listen", options.listen));
  GMA_ASSIGN_OR_RETURN(const bool metrics_is_local,
                       IsLoopback("--metrics_listen", options.metrics_listen));
  if (options.insecure_remote) return absl::OkStatus();
  if (!grpc_is_local && !(options.tls.has_value() && options.api_keys.has_value())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen: ", options.listen.ToString(), " can be reached from other machines, which ",
        "needs --tls_cert, --tls_key and --api_keys, or --insecure_remote to go without"));
  }
  if (!metrics_is_local) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--metrics_listen: ", options.metrics_listen.ToString(), " can be reached from other ",
        "machines and has neither TLS nor keys, which needs --insecure_remote"));
  }
  return absl::OkStatus();
}

LogLevel ParseLogLevel(const std::string& text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "warning") return LogLevel::kWarning;
  return text == "error" ? LogLevel::kError : LogLevel::kInfo;
}

absl::StatusOr<ServerOptions> Finish(const RawFlags& raw) {
  ServerOptions options = raw.options;
  if (options.model.empty()) {
    return absl::InvalidArgumentError("--model is missing: the directory of the model");
  }
  if (options.model_name.empty()) {
    const auto path = std::filesystem::path(options.model).lexically_normal();
    options.model_name = path.has_filename() ? path.filename() : path.parent_path().filename();
  }
  constexpr Limit kNameBytes = {"--model_name", 1, limits::kModelBytes.max, "bytes", ""};
  GMA_RETURN_IF_ERROR(CheckLimit(kNameBytes, options.model_name.size()));
  GMA_RETURN_IF_ERROR(CheckStoreFlags(options));
  GMA_ASSIGN_OR_RETURN(options.listen, ParseListenAddress("--listen", raw.listen));
  GMA_ASSIGN_OR_RETURN(options.metrics_listen,
                       ParseListenAddress("--metrics_listen", raw.metrics_listen));
  GMA_ASSIGN_OR_RETURN(options.session_ttl, ParseTime("--session_ttl", raw.session_ttl,
                                                      absl::Seconds(1), absl::Hours(168)));
  GMA_ASSIGN_OR_RETURN(options.drain_timeout, ParseTime("--drain_timeout", raw.drain_timeout,
                                                        absl::ZeroDuration(), absl::Hours(1)));
  GMA_ASSIGN_OR_RETURN(options.resume_window, ParseTime("--resume_window", raw.resume_window,
                                                        absl::ZeroDuration(), absl::Hours(1)));
  if (options.weights.empty()) options.weights = DefaultWeights(options);
  options.max_batch_rows =
      std::min({options.max_batch_rows, options.max_step_tokens, options.max_sessions});
  options.log_level = ParseLogLevel(raw.log_level);
  GMA_RETURN_IF_ERROR(ReadSecurityFiles(raw, options));
  GMA_RETURN_IF_ERROR(CheckExposure(options));
  return options;
}

}  // namespace

absl::StatusOr<std::variant<ServerOptions, PrintAndExit>> ParseServerOptions(
    int argc, const char* const* argv) {
  CLI::App app(
      "Streaming inference server for causal Gaussian Mixture Attention language models.\n"
      "Listens on loopback unless told otherwise; docs/OPERATIONS.md explains every flag.\n",
      "gma-server");
  app.get_formatter()->column_width(34);
  RawFlags raw;
  AddModelFlags(app, raw);
  AddNetworkFlags(app, raw);
  AddCapacityFlags(app, raw);
  AddStoreFlags(app, raw.options);
  AddGeneralFlags(app, raw);
  app.footer("Example: gma-server --model models/smollm2-135m-gma --max_sessions 256");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return PrintAndExit{app.help()};
  } catch (const CLI::CallForVersion& version) {
    return PrintAndExit{std::string(version.what()) + "\n"};
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(absl::StrReplaceAll(error.what(), {{"\n", " "}}), " (see --help)"));
  }
  if (raw.print_limits) return PrintAndExit{LimitsMarkdown()};
  GMA_ASSIGN_OR_RETURN(ServerOptions options, Finish(raw));
  return options;
}

}  // namespace gma
