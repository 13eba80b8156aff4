// gma-loadgen: load on a GMA server, and what its clients see of it.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/lib/client.h"
#include "client/lib/status.h"
#include "client/loadgen/flags.h"
#include "client/loadgen/report.h"
#include "client/loadgen/runner.h"

namespace gma::client {
namespace {

// The first signal ends the load, so that what was measured is shown; the second the program.
class Signals {
 public:
  void Watch(Runner* runner) {
    absl::MutexLock lock(&mutex_);
    runner_ = runner;
  }
  bool received() const {
    absl::MutexLock lock(&mutex_);
    return received_;
  }
  // On a thread of its own.
  void On(int signal) {
    absl::MutexLock lock(&mutex_);
    if (received_ || runner_ == nullptr) _exit(128 + signal);
    received_ = true;
    runner_->Stop();
  }

 private:
  mutable absl::Mutex mutex_;
  Runner* runner_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool received_ ABSL_GUARDED_BY(mutex_) = false;
};

Signals signals;

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "gma-loadgen: %s\n", OneLine(status).c_str());
  return code;
}

int Run(const LoadFlags& flags) {
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> borrowed;
  for (int32_t i = 0; i < flags.connections; ++i) {
    absl::StatusOr<std::unique_ptr<Client>> client = Client::Create(OptionsOf(flags.connection));
    if (!client.ok()) return Fail(client.status(), kExitUsage);
    clients.push_back(*std::move(client));
    borrowed.push_back(clients.back().get());
  }
  absl::StatusOr<v1::ModelInfo> model;
  // All connections are made before the clock starts.
  for (Client* client : borrowed) {
    model = client->WaitUntilServing(flags.connection.model,
                                     absl::Seconds(flags.connection.connect_timeout));
    if (!model.ok()) return Fail(model.status(), kExitFailure);
  }

  Runner runner(flags, borrowed, model->vocab_size());
  signals.Watch(&runner);
  const bool show_progress = isatty(STDERR_FILENO) == 1;
  const LoadResult result = runner.Run([&](const Progress& progress) {
    if (show_progress) std::fprintf(stderr, "\r\x1b[K%s", LineOf(progress).c_str());
  });
  signals.Watch(nullptr);
  if (show_progress) std::fputs("\r\x1b[K", stderr);
  const std::string text = flags.json ? JsonOf(flags, *model, result) : TableOf(result);
  std::fputs(text.c_str(), stdout);
  if (signals.received()) return kExitInterrupted;
  return result.succeeded > 0 || result.cancelled > 0 ? kExitOk : kExitFailure;
}

}  // namespace
}  // namespace gma::client

int main(int argc, char** argv) {
  gma::client::LoadFlags flags;
  if (const std::optional<int> code = gma::client::ParseLoadFlags(argc, argv, flags)) return *code;
  gma::client::HandleSignals([](int signal) { gma::client::signals.On(signal); });
  return gma::client::Run(flags);
}
