#include "server/options/store_flags.h"

#include "server/options/flag_helpers.h"

namespace gma {
namespace {

const char kGroup[] = "Store of sessions";

}  // namespace

void AddStoreFlags(CLI::App& app, ServerOptions& options) {
  app.add_option("--state_dir", options.state_dir,
                 "Directory that sessions are kept in, made when there is none; one server at a "
                 "time. Default: sessions end with the process.")
      ->option_text("DIR")
      ->group(kGroup);
  app.add_option("--redis", options.redis,
                 "Redis that sessions are kept in, for several servers at once: "
                 "redis://[:PASSWORD@]HOST[:PORT][/DATABASE] or unix:/PATH. Needs --state_key.")
      ->option_text("URL")
      ->group(kGroup);
  app.add_option("--state_key", options.state_key,
                 "Key that sessions are sealed with outside the process: 32 bytes, made with mode "
                 "0600 when there is no such file. Default: state.key in --state_dir, else a key "
                 "of this process alone.")
      ->option_text("FILE")
      ->group(kGroup);
  app.add_option("--durability", options.durability,
                 "What survives a crash: none (parked sessions), interval (turns, but for the last "
                 "--sync_seconds) or always. Default interval.")
      ->check(CLI::IsMember({"none", "interval", "always"}))
      ->option_text("POLICY")
      ->group(kGroup);
  AddInteger(app, "--sync_seconds", options.sync_seconds, 1, 3600,
             "With --durability interval: how often the journal is synced.")
      ->group(kGroup);
  AddInteger(app, "--snapshot_tokens", options.snapshot_tokens, 1, 1000000000,
             "A turn begins with a snapshot of its session when more tokens than this were fed "
             "since the last one.")
      ->group(kGroup);
  AddInteger(app, "--park_disk_bytes", options.park_disk_bytes, 0, int64_t{1} << 60,
             "Bytes of all sessions in --state_dir; 0 is no limit.")
      ->group(kGroup);
  AddInteger(app, "--owner_disk_bytes", options.owner_disk_bytes, 1, int64_t{1} << 60,
             "Bytes of one owner's sessions in the store.")
      ->group(kGroup);
}

absl::Status CheckStoreFlags(const ServerOptions& options) {
  if (!options.state_dir.empty() && !options.redis.empty()) {
    return absl::InvalidArgumentError(
        "--state_dir and --redis exclude each other: sessions are kept in one place");
  }
  if (!options.redis.empty() && options.state_key.empty()) {
    return absl::InvalidArgumentError(
        "--redis needs --state_key: what this server seals, others and later ones have to open");
  }
  return absl::OkStatus();
}

}  // namespace gma
