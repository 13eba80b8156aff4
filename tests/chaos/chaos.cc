// gma_chaos: applications talk to a server that is killed again and again, and must see what they
// would have seen without that (tests/chaos/history.h).
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "client/lib/command_line.h"
#include "tests/chaos/load.h"
#include "tests/chaos/server_runner.h"
#include "tests/chaos/state_opener.h"
#include "tests/support/redis_server.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/temp_dir.h"

namespace gma::chaos {
namespace {

struct Flags {
  int kills = 5, clients = 6;
  uint64_t seed = 0;  // 0: one of the clock
  std::string store = "files", durability = "interval";
  std::string server = GMA_SERVER_BINARY, model = GMA_CHAOS_MODEL;
  bool no_cuts = false;
};

std::optional<int> ParseFlags(int argc, char** argv, Flags& flags) {
  CLI::App app(
      "Applications talk to a gma-server that is killed (SIGKILL) at random moments and started "
      "again on the same store, over connections that are cut at random. Every session is compared "
      "with the same one on a server that nothing happens to: events, tokens, contexts, and the "
      "bytes of its state. Exit code 0: there was no fault; 1: there was; 2: a bad flag.",
      "gma_chaos");
  app.add_option("--kills", flags.kills, "Kills in all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1'000'000));
  app.add_option("--seed", flags.seed, "Of the sessions and the kills; 0: a new one")
      ->capture_default_str();
  app.add_option("--clients", flags.clients, "Applications, with three sessions each at a time")
      ->capture_default_str()
      ->check(CLI::Range(1, 200));
  app.add_option("--store", flags.store, "Where the server keeps sessions")
      ->capture_default_str()
      ->check(CLI::IsMember({"files", "redis"}));
  app.add_option("--durability", flags.durability, "Of the server")
      ->capture_default_str()
      ->check(CLI::IsMember({"interval", "always"}));
  app.add_flag("--no_cuts", flags.no_cuts, "Cut no connections besides");
  app.add_option("--server", flags.server, "The program")->capture_default_str();
  app.add_option("--model", flags.model, "Directory of its model")->capture_default_str();
  return client::ParseCommandLine(app, argc, argv);
}

// How often each of `words` stands in a line of the file.
std::vector<int64_t> CountIn(const std::string& path, const std::vector<std::string>& words) {
  std::vector<int64_t> counts(words.size());
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    for (size_t i = 0; i < words.size(); ++i) counts[i] += absl::StrContains(line, words[i]);
  }
  return counts;
}

std::vector<std::string> DisturbedFlags(const Flags& flags, const std::string& directory,
                                        const testing::RedisServer* redis) {
  std::vector<std::string> all = {
      "--durability", flags.durability, "--state_key", directory + "/key",
      // Few rows and little memory: sessions are parked all the time.
      "--max_sessions", "8", "--park_memory_bytes", "1000000", "--checkpoint_bytes", "200000",
      "--prefix_bytes", "500000", "--snapshot_tokens", "500", "--max_step_tokens", "16"};
  if (redis != nullptr) {
    all.insert(all.end(), {"--redis", redis->unix_address()});
  } else {
    all.insert(all.end(), {"--state_dir", directory + "/state"});
  }
  return all;
}

class Chaos {
 public:
  explicit Chaos(const Flags& flags)
      : flags_(flags),
        random_(flags.seed),
        redis_(flags.store == "redis" ? testing::RedisServer::Start() : nullptr),
        server_(flags.server, flags.model, directory_.path(), "server",
                DisturbedFlags(flags, directory_.path(), redis_.get())),
        reference_(flags.server, flags.model, directory_.path(), "reference",
                   {"--state_key", directory_.File("key"), "--max_sessions", "256",
                    "--prefix_bytes", "0"}) {}

  absl::Status Run() {
    if (flags_.store == "redis" && redis_ == nullptr) {
      return absl::NotFoundError("there is no redis-server on this machine");
    }
    GMA_ASSIGN_OR_RETURN(OpenState open_state,
                         MakeStateOpener(flags_.model, directory_.File("key")));
    reference_.process().Start();
    server_.process().Start();
    GMA_RETURN_IF_ERROR(reference_.WaitUntilServing());
    GMA_RETURN_IF_ERROR(server_.WaitUntilServing());
    testing::TcpProxy proxy(server_.grpc_port(), [this] { return Budget(); });
    const int port = flags_.no_cuts ? server_.grpc_port() : proxy.port();
    Load load({.address = absl::StrCat("127.0.0.1:", port),
               .reference = reference_.address(),
               .seed = flags_.seed,
               .clients = flags_.clients,
               .sessions = 3,
               .patience = absl::Minutes(10)},  // a server that dies young again and again
              std::move(open_state));
    const absl::Time start = absl::Now();
    const absl::Status killed = KillAgainAndAgain(load);
    cutting_ = false;
    if (!killed.ok()) server_.process().Start();  // for those that are under way
    load.Finish();
    TellFaults(load);
    Tell(load, proxy.cuts(), absl::Now() - start);
    GMA_RETURN_IF_ERROR(killed);
    return load.counts().faults == 0 ? absl::OkStatus() : absl::DataLossError("there were faults");
  }

 private:
  // Bytes until a connection is cut: most live long, some not through their greeting.
  int64_t Budget() {
    constexpr int64_t kNever = int64_t{1} << 60;
    absl::MutexLock lock(&mutex_);
    if (!cutting_) return kNever;
    return cut_random_() % 4 == 0 ? 20 + cut_random_() % 600 : 3000 + cut_random_() % 100000;
  }

  absl::Status KillAgainAndAgain(const Load& load) {
    const bool terminal = isatty(STDOUT_FILENO) != 0;
    for (int kill = 1; kill <= flags_.kills; ++kill) {
      // Some die young, before they serve or while sessions come back; most in the middle of work.
      const uint64_t choice = random_() % 10;
      const absl::Duration life = absl::Milliseconds(random_() % (choice < 4 ? 60 : 700));
      if (choice != 0) GMA_RETURN_IF_ERROR(server_.WaitUntilServing());
      if (choice >= 4) WaitForSteps(load, 1 + random_() % 10);
      absl::SleepFor(life);
      server_.process().Kill();
      server_.process().Start();
      if (terminal) {
        std::printf("\r\033[Kkill %d of %d, %ld sessions compared, %ld faults", kill, flags_.kills,
                    load.counts().sessions.load(), load.counts().faults.load());
        std::fflush(stdout);
      } else if (kill % 50 == 0) {
        std::printf("kill %d of %d, %ld sessions compared, %ld faults\n", kill, flags_.kills,
                    load.counts().sessions.load(), load.counts().faults.load());
        std::fflush(stdout);
      }
      TellFaults(load);
      if (load.counts().faults > 50) break;  // they are enough to begin with
    }
    if (terminal) std::printf("\r\033[K");
    return server_.WaitUntilServing();
  }

  // Until the applications have got on by so much; they come back after pauses of their own.
  static void WaitForSteps(const Load& load, uint64_t steps) {
    const int64_t until = load.counts().steps + static_cast<int64_t>(steps);
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (load.counts().steps < until && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }

  // Those that are new.
  void TellFaults(const Load& load) {
    const std::vector<std::string> faults = load.faults();
    for (; told_ < faults.size(); ++told_) std::printf("FAULT %s\n", faults[told_].c_str());
    std::fflush(stdout);
  }

  void Tell(const Load& load, int64_t cuts, absl::Duration took) const {
    const std::vector<int64_t> log = CountIn(
        server_.process().log(), {"\"serving\"", "\"session_recovering\"", "\"runs_again\":true",
                                  "\"session_restored\"", "\"store_failed\""});
    const LoadCounts& counts = load.counts();
    std::printf(
        "seed %lu, store %s, durability %s: %d kills in %.0f s; the server came up %ld times\n"
        "%ld sessions with %ld turns and %ld tokens compared; %ld answers cancelled, input entered "
        "%ld; %ld answers taken up again, %ld connections cut\n"
        "%ld sessions came back from the store, %ld of them through their journal, %ld in the "
        "middle of an answer or with its end to be shown again; %ld calls of the store failed\n"
        "%ld faults\n",
        flags_.seed, flags_.store.c_str(), flags_.durability.c_str(), flags_.kills,
        absl::ToDoubleSeconds(took), log[0], counts.sessions.load(), counts.turns.load(),
        counts.tokens.load(), counts.cancelled.load(), counts.entered.load(), counts.resumes.load(),
        cuts, log[3], log[1], log[2], log[4], counts.faults.load());
    if (counts.faults == 0) return;
    const std::string kept = absl::StrCat("/tmp/gma_chaos_", flags_.seed, ".log");
    std::error_code ignored;
    std::filesystem::copy_file(server_.process().log(), kept,
                               std::filesystem::copy_options::overwrite_existing, ignored);
    std::printf("the server's log: %s\n", kept.c_str());
  }

  const Flags flags_;
  std::mt19937_64 random_;  // of the kills
  testing::TempDir directory_;
  const std::unique_ptr<testing::RedisServer> redis_;
  mutable ServerRunner server_, reference_;
  absl::Mutex mutex_;
  std::mt19937_64 cut_random_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> cutting_{true};
  size_t told_ = 0;  // faults
};

int Main(int argc, char** argv) {
  Flags flags;
  if (const std::optional<int> code = ParseFlags(argc, argv, flags)) return *code;
  if (flags.seed == 0) flags.seed = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  std::printf("seed %lu\n", flags.seed);
  std::fflush(stdout);
  const absl::Status status = Chaos(flags).Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "gma_chaos: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace gma::chaos

int main(int argc, char** argv) { return gma::chaos::Main(argc, argv); }
