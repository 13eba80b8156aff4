// A session of any length is disturbed again and again and must not differ from one that was not.
#ifndef GMA_TESTS_SOAK_SOAK_RUN_H_
#define GMA_TESTS_SOAK_SOAK_RUN_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/session/session_image.h"
#include "server/session/snapshot.h"
#include "tests/soak/subject.h"
#include "tests/soak/turns.h"

namespace gma::soak {

struct SoakOptions {
  std::string program;  // gma-server
  std::string model;
  std::string folder;  // for the state, its key, and what is left there (see Soak)
  std::vector<std::string> server_flags;
  int64_t tokens = 0;
  int32_t rounds = 1;  // of all disturbances
  // The undisturbed session takes its turns when the other is done, not each behind the other's.
  bool apart = false;
  TurnOptions turns;
};

// Time of a token over some of the turns.
struct TokenTimes {
  int64_t appended = 0, drawn = 0;
  double append_seconds = 0, decode_seconds = 0;

  void Add(const Turn& turn, const Outcome& outcome);
  std::string Line() const;
};

// What is disturbed has --state_dir and room for few sessions; the other has neither. Unless they
// are apart, both take every turn before the next, so the first difference is seen where it arises.
// THREADS: one at a time.
class Soak {
 public:
  using Progress = std::function<void(std::string_view line)>;

  // `told` hears of every disturbance and of the result, `progress` of how far it is.
  Soak(SoakOptions options, Progress told, Progress progress)
      : options_(std::move(options)), told_(std::move(told)), progress_(std::move(progress)) {}

  // Leaves the disturbed session in `folder`, as session.gma, sealed with state.key.
  // ERRORS: kDataLoss for a difference, kInternal for bytes that grow; the server's.
  absl::Status Run();

 private:
  enum class Disturbance { kFork, kParkMemory, kParkDisk, kStop, kKillAnswer, kKillAppend };
  static constexpr std::array<const char*, 6> kNames = {"fork",
                                                        "park to memory",
                                                        "park to disk",
                                                        "orderly restart",
                                                        "kill -9 in an answer",
                                                        "kill -9 in an append"};

  absl::Status Start();
  absl::Status Disturb(Disturbance disturbance);
  absl::Status Fork();
  absl::Status Take(Turn turn, const std::function<absl::Status()>& meanwhile, bool timed);
  // The turn was taken: the other takes it, now or later.
  absl::Status Taken(Turn turn, Outcome outcome, bool timed);
  absl::Status TakeUndisturbed();  // all that are due
  absl::StatusOr<Outcome> AppendAndKill(const Turn& turn);
  absl::Status KillAndStart();
  void Show(const char* who, int64_t context) const;
  absl::Status Sample();
  absl::Status CheckEnd();
  absl::StatusOr<SessionImage> ImageOf(Subject& subject, bool leave);
  absl::Status CheckBytes() const;
  void ShowTimes() const;
  void AddTimes(int side, const Turn& turn, const Outcome& outcome, int64_t context);

  int64_t rounds_done() const { return static_cast<int64_t>(disturbances_ / kNames.size()); }
  int64_t NextDisturbanceAt() const;
  int64_t window() const;  // tokens at each end whose times are told

  struct Due {
    Turn turn;
    Outcome outcome;  // on the disturbed side
    bool timed;
  };

  const SoakOptions options_;
  const Progress told_, progress_;
  std::unique_ptr<SnapshotScope> scope_;
  std::unique_ptr<Subject> disturbed_, plain_;
  std::unique_ptr<Turns> turns_;
  std::deque<Due> due_;                      // of plain_
  int64_t context_ = 0, plain_context_ = 0;  // tokens of each
  size_t disturbances_ = 0;                  // done
  TokenTimes first_[2], last_[2];            // of disturbed_ and plain_
  int64_t next_sample_ = 0, state_bytes_ = 0, checkpoint_bytes_ = 0;
  int64_t resident_base_ = 0, resident_most_ = 0, disk_most_ = 0;  // of plain_; of disturbed_
  absl::Time start_;
};

}  // namespace gma::soak

#endif  // GMA_TESTS_SOAK_SOAK_RUN_H_
