// Runs a load: starts the requests when they are due, collects what came of them.
#ifndef GMA_CLIENT_LOADGEN_RUNNER_H_
#define GMA_CLIENT_LOADGEN_RUNNER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/lib/client.h"
#include "client/loadgen/distribution.h"
#include "client/loadgen/flags.h"
#include "client/loadgen/plan.h"

namespace gma::client {

struct ErrorCount {
  int64_t count = 0;
  std::string example;  // the first message
};

// Times in seconds. Those of requests that failed, were cancelled or read slowly are left out.
struct LoadResult {
  int64_t started = 0, succeeded = 0, cancelled = 0, failed = 0, slow = 0;
  std::map<std::string, ErrorCount> errors;          // by the name of the code
  int64_t prompt_tokens = 0, completion_tokens = 0;  // of all requests, as far as they came
  double wall_seconds = 0;                           // first start until last end
  Distribution first_token;                          // planned arrival until the first token
  // Between tokens; tokens that came in one message share the time since the one before.
  Distribution inter_token;
  Distribution inter_message;  // between messages: the longest a reader sees nothing new
  Distribution end_to_end;     // planned arrival until the end
};

struct Progress {
  int64_t running, succeeded, failed, tokens;
  double seconds;
};

// THREADS: Run from one thread, Stop from any.
class Runner {
 public:
  // REQUIRES: `clients` outlive the runner; at least one; vocab_size > 0.
  Runner(const LoadFlags& flags, std::vector<Client*> clients, int32_t vocab_size);

  // Starts all requests and waits for their ends. `report`, which may be empty, is called twice a
  // second.
  LoadResult Run(const std::function<void(const Progress&)>& report);
  // Starts no more, and cancels what runs.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // One request; touched by its call's reactions, one at a time, until they report its end.
  struct Request {
    PlannedRequest plan;
    absl::Time due, last_message;
    double first_token = -1;
    std::vector<double> token_gaps, message_gaps;
    int64_t prompt_tokens = 0, tokens = 0, tokens_promised = -1;
    bool cancelled = false;
  };
  struct Wakeup {  // of a slow reader
    absl::Time at;
    int64_t index;
    bool operator>(const Wakeup& other) const { return at > other.at; }
  };

  void Start(int64_t index, absl::Time due) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether to read on at once.
  bool OnEvent(int64_t index, Request& request, v1::GenerateResponse& event)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnTokens(Request& request, int64_t count);
  void OnDone(int64_t index, const Request& request, absl::Status status)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether one more may be started, and when it is due.
  bool MayStart(absl::Time due) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void WakeSlowReaders() ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<GenerateCall> CallOf(int64_t index) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const LoadFlags flags_;
  const std::vector<Client*> clients_;
  const int32_t vocab_size_;
  absl::Time begin_;

  mutable absl::Mutex mutex_;
  absl::CondVar changed_;  // a call ended, a slow reader was put to sleep, or Stop
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t started_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_end_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<int64_t, std::shared_ptr<GenerateCall>> calls_ ABSL_GUARDED_BY(mutex_);
  std::priority_queue<Wakeup, std::vector<Wakeup>, std::greater<>> wakeups_ ABSL_GUARDED_BY(mutex_);
  LoadResult result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LOADGEN_RUNNER_H_
