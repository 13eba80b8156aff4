// What a store's calls cost, as one JSON object: median and 90th percentile in milliseconds.
//   store_bench --files=DIRECTORY | --redis=ADDRESS [--bytes=N] [--repeats=N] [--sessions=N]
// With --sessions, so many sessions of 1 KiB are put as well; of a file store, what its index takes
// in memory and how long opening it again lasts.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/process_memory.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/store/file_store.h"
#include "server/store/redis_store.h"
#include "tests/bench/decoder_flags.h"

namespace gma::bench {
namespace {

constexpr absl::Duration kTtl = absl::Hours(1);

struct Flags {
  std::string files, redis;
  int32_t bytes = 8'400'000, repeats = 40, sessions = 0;
};

StoreKey KeyOf(int number) {
  return {std::string(32, 'a'),
          absl::StrCat(absl::Hex(number, absl::kZeroPad16), "0123456789abcdef")};
}

// Median and 90th percentile of `repeats` calls.
absl::Status Measure(const Flags& flags, const char* name, nlohmann::ordered_json& out,
                     const std::function<absl::Status(int)>& call) {
  const RealClock clock;
  std::vector<double> times;
  for (int i = 0; i < flags.repeats; ++i) {
    const absl::Duration start = clock.Monotonic();
    GMA_RETURN_IF_ERROR(call(i));
    times.push_back(absl::ToDoubleMilliseconds(clock.Monotonic() - start));
  }
  std::sort(times.begin(), times.end());
  out[name] = {{"median_ms", times[times.size() / 2]}, {"p90_ms", times[times.size() * 9 / 10]}};
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SessionStore>> Open(const Flags& flags, const Clock& clock) {
  if (!flags.redis.empty()) return RedisStore::Create({flags.redis, absl::Seconds(10)}, clock);
  return FileStore::Open({flags.files, 0}, clock);
}

absl::Status Run(const Flags& flags) {
  const RealClock clock;
  nlohmann::ordered_json out;
  out["snapshot_bytes"] = flags.bytes;
  GMA_ASSIGN_OR_RETURN(std::unique_ptr<SessionStore> store, Open(flags, clock));
  const std::string snapshot(static_cast<size_t>(flags.bytes), 's'), record(500, 'r');
  GMA_RETURN_IF_ERROR(Measure(
      flags, "put", out, [&](int i) { return store->PutSnapshot(KeyOf(i), 1, kTtl, snapshot); }));
  GMA_RETURN_IF_ERROR(Measure(flags, "append", out, [&](int i) {
    return store->Append(KeyOf(i), 1, kTtl, record, false);
  }));
  const absl::Duration sync_start = clock.Monotonic();
  GMA_RETURN_IF_ERROR(store->Sync());
  out["sync_of_all_ms"] = absl::ToDoubleMilliseconds(clock.Monotonic() - sync_start);
  GMA_RETURN_IF_ERROR(Measure(flags, "append_and_sync", out, [&](int i) {
    return store->Append(KeyOf(i), 1, kTtl, record, true);
  }));
  GMA_RETURN_IF_ERROR(
      Measure(flags, "claim", out, [&](int i) { return store->Claim(KeyOf(i)).status(); }));
  GMA_RETURN_IF_ERROR(
      Measure(flags, "remove", out, [&](int i) { return store->Remove(KeyOf(i), 2); }));
  if (flags.sessions > 0) {
    const int64_t before = ResidentBytes();
    const std::string small(1024, 's');
    for (int i = 0; i < flags.sessions; ++i) {
      GMA_RETURN_IF_ERROR(store->PutSnapshot(KeyOf(i), 1, kTtl, small));
    }
    const int64_t grown = ResidentBytes() - before;
    out["index_bytes_a_session"] = static_cast<double>(grown) / flags.sessions;
    GMA_RETURN_IF_ERROR(Measure(flags, "claim_among_sessions", out,
                                [&](int i) { return store->Claim(KeyOf(i)).status(); }));
    store.reset();
    const absl::Duration start = clock.Monotonic();
    GMA_ASSIGN_OR_RETURN(store, Open(flags, clock));
    out["open_again_ms"] = absl::ToDoubleMilliseconds(clock.Monotonic() - start);
  }
  std::printf("%s\n", out.dump(1).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace gma::bench

int main(int argc, char** argv) {
  gma::bench::Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag.starts_with("--files=")) {
      flags.files = flag.substr(8);
    } else if (flag.starts_with("--redis=")) {
      flags.redis = flag.substr(8);
    } else if (!gma::bench::ReadInt(flag, "--bytes=", flags.bytes) &&
               !gma::bench::ReadInt(flag, "--repeats=", flags.repeats) &&
               !gma::bench::ReadInt(flag, "--sessions=", flags.sessions)) {
      flags.files.clear();
      flags.redis.clear();
      break;
    }
  }
  if (flags.files.empty() == flags.redis.empty() || flags.repeats < 1 || flags.bytes < 0) {
    std::fprintf(stderr,
                 "usage: %s --files=DIRECTORY | --redis=ADDRESS [--bytes=N] [--repeats=N] "
                 "[--sessions=N]\n",
                 argv[0]);
    return 2;
  }
  return gma::bench::ExitCode(argv[0], gma::bench::Run(flags));
}
