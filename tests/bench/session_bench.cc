// What calls on sessions cost on a gma-server, and very many idle sessions; prints JSON.
// tools/bench starts the server as each needs it (session_figures.h says how).
//   session_bench --server HOST:PORT calls|tiers|decode [--blob FILE | --long N] [--short N]
//   [--repeats N] session_bench --server HOST:PORT idle --sessions N [--fed N] [--callers N]
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "client/lib/client.h"
#include "client/lib/command_line.h"
#include "client/lib/status.h"
#include "tests/bench/session_figures.h"

namespace gma::bench {
namespace {

constexpr size_t kMostBlobBytes = size_t{1} << 31;

struct Flags {
  client::ConnectionFlags connection;
  std::string what, blob;
  int64_t short_tokens = 10, long_tokens = 10'000;
  int32_t repeats = 20, sessions = 1000, fed = 16, callers = 8;
};

absl::StatusOr<nlohmann::ordered_json> Figures(const Flags& flags, client::Client& client,
                                               const v1::ModelInfo& model) {
  SessionFigures figures(client, model.vocab_size());
  GMA_RETURN_IF_ERROR(figures.AddFed(flags.short_tokens));
  if (flags.blob.empty()) {
    GMA_RETURN_IF_ERROR(figures.AddFed(flags.long_tokens));
  } else {
    GMA_ASSIGN_OR_RETURN(const std::string blob, ReadFile(flags.blob, kMostBlobBytes));
    GMA_RETURN_IF_ERROR(figures.AddImported(blob));
  }
  if (flags.what == "calls") {
    GMA_RETURN_IF_ERROR(figures.MeasureCalls(flags.repeats));
  } else if (flags.what == "tiers") {
    GMA_RETURN_IF_ERROR(figures.MeasureTiers(flags.repeats));
  } else {
    GMA_RETURN_IF_ERROR(figures.MeasureDecode(flags.repeats));
  }
  return figures.Report();
}

// Opens a session and feeds it; again and again while the server has no room.
absl::Status AddIdle(client::Client& client, const v1::AppendRequest& input,
                     std::atomic<int64_t>& refused) {
  std::string id;
  for (;;) {
    absl::Status status;
    if (id.empty()) {
      const absl::StatusOr<v1::SessionInfo> info = client.CreateSession({});
      if (info.ok()) id = info->session_id();
      status = info.status();
    }
    if (status.ok()) {
      v1::AppendRequest request = input;
      request.set_session_id(id);
      status = client.AppendToSession(std::move(request)).status();
      if (status.ok()) return status;
    }
    const std::optional<absl::Duration> pause = client::RetryAfter(status);
    if (!pause.has_value()) return status;
    ++refused;
    absl::SleepFor(std::min(*pause, absl::Milliseconds(50)));
  }
}

absl::StatusOr<nlohmann::ordered_json> Idle(const Flags& flags, client::Client& client,
                                            const v1::ModelInfo& model) {
  v1::AppendRequest input;
  for (int32_t i = 0; i < flags.fed; ++i) {
    input.mutable_input()->mutable_tokens()->add_ids(i % model.vocab_size());
  }
  const absl::Time start = absl::Now();
  std::atomic<int64_t> next{0}, refused{0};
  absl::Mutex mutex;
  absl::Status failed;
  std::vector<std::thread> callers;
  for (int32_t caller = 0; caller < flags.callers; ++caller) {
    callers.emplace_back([&] {
      for (int64_t mine = next++; mine < flags.sessions; mine = next++) {
        const absl::Status status = AddIdle(client, input, refused);
        if (!status.ok()) {
          absl::MutexLock lock(&mutex);
          failed = status;
          next = flags.sessions;
        } else if (mine % 100 == 0 && isatty(STDERR_FILENO) == 1) {
          std::fprintf(stderr, "\r%lld of %d sessions", static_cast<long long>(mine),
                       flags.sessions);
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  GMA_RETURN_IF_ERROR(failed);
  return nlohmann::ordered_json{{"sessions", flags.sessions},
                                {"seconds", absl::ToDoubleSeconds(absl::Now() - start)},
                                {"refused", refused.load()},
                                {"state_bytes", model.state_bytes()}};
}

absl::Status Run(const Flags& flags) {
  client::ClientOptions options = client::OptionsOf(flags.connection);
  options.deadline = absl::Minutes(10);
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<client::Client> client,
                       client::Client::Create(options));
  GMA_ASSIGN_OR_RETURN(const v1::ModelInfo model, client->WaitUntilServing("", absl::Seconds(30)));
  GMA_ASSIGN_OR_RETURN(const nlohmann::ordered_json report, flags.what == "idle"
                                                                ? Idle(flags, *client, model)
                                                                : Figures(flags, *client, model));
  std::printf("%s\n", report.dump().c_str());
  return absl::OkStatus();
}

std::optional<int> ParseFlags(int argc, char** argv, Flags& flags) {
  CLI::App app("Measures what calls on sessions cost, or makes very many idle ones; prints JSON.",
               "session_bench");
  client::AddConnectionFlags(app, flags.connection);
  app.add_option("what", flags.what)
      ->required()
      ->check(CLI::IsMember({"calls", "tiers", "decode", "idle"}));
  app.add_option("--blob", flags.blob, "An exported session: the long one");
  app.add_option("--long", flags.long_tokens, "Without --blob: tokens that the long one is fed")
      ->capture_default_str();
  app.add_option("--short", flags.short_tokens, "Tokens of the short one")->capture_default_str();
  app.add_option("--repeats", flags.repeats, "Of each call; of decode, answers of 50 tokens")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--sessions", flags.sessions, "Idle ones")->capture_default_str();
  app.add_option("--fed", flags.fed, "Tokens that each of them is fed")->capture_default_str();
  app.add_option("--callers", flags.callers, "Calls at once")->capture_default_str();
  return client::ParseCommandLine(app, argc, argv);
}

}  // namespace
}  // namespace gma::bench

int main(int argc, char** argv) {
  gma::bench::Flags flags;
  if (const std::optional<int> code = gma::bench::ParseFlags(argc, argv, flags)) return *code;
  const absl::Status status = gma::bench::Run(flags);
  if (status.ok()) return gma::client::kExitOk;
  std::fprintf(stderr, "session_bench: %s\n", gma::client::OneLine(status).c_str());
  return gma::client::kExitFailure;
}
