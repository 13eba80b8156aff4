// Applications at work: each goes through several sessions at once, one after the other, and each
// session that is over is compared with the same one on a server that nothing happens to.
#ifndef GMA_TESTS_CHAOS_LOAD_H_
#define GMA_TESTS_CHAOS_LOAD_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/chaos/application.h"

namespace gma::chaos {

struct LoadOptions {
  std::string address;    // of what is disturbed, as ClientOptions::address
  std::string reference;  // of what is not
  uint64_t seed = 1;
  int clients = 6;
  int sessions = 3;  // of a client at once
  absl::Duration patience = absl::Seconds(60);
};

struct LoadCounts {
  std::atomic<int64_t> steps{0};  // that were taken so far; the others: of sessions compared
  std::atomic<int64_t> sessions{0}, turns{0}, tokens{0}, resumes{0}, faults{0};
  std::atomic<int64_t> cancelled{0}, entered{0};  // answers: cancelled, and with input in them
};

// THREADS: any.
class Load {
 public:
  // Begins at once.
  Load(LoadOptions options, OpenState open_state);
  ~Load();

  // No new sessions; waits for those that are under way.
  void Finish();
  const LoadCounts& counts() const { return counts_; }
  // What was wrong so far, a line each.
  std::vector<std::string> faults() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Talk;

  void Run();
  void Compare(uint64_t number, client::Client& reference, SeenSession seen);

  const LoadOptions options_;
  const OpenState open_state_;
  LoadCounts counts_;
  std::atomic<uint64_t> next_{0};  // number of the next session
  std::atomic<bool> ending_{false};
  mutable absl::Mutex mutex_;
  std::vector<std::string> faults_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_LOAD_H_
