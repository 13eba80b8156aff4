// What a session remembers of its past, and the way back to any of it: the nearest checkpoint at or
// before the wanted position, then the tokens since, fed again.
#ifndef GMA_SERVER_SESSION_SESSION_PAST_H_
#define GMA_SERVER_SESSION_SESSION_PAST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/session/checkpoint_ring.h"
#include "server/session/session_point.h"
#include "server/session/token_log.h"

namespace gma {

// Of one session.
struct PastLimits {
  size_t checkpoint_bytes = 0;  // of its checkpoints; 0: none are kept
  int64_t checkpoint_tokens =
      0;                      // an automatic one after so many tokens; 0: none but at turns' ends
  int64_t rewind_tokens = 0;  // token ids remembered, the last ones; 0: none
};

// The name of a checkpoint, or the number of tokens that the session is to hold.
using RewindTarget = std::variant<std::string, int64_t>;

struct RewindPlan {
  std::shared_ptr<const SavedRow> row;  // to start from; null: a row of zero bytes
  int64_t row_fed = 0;                  // tokens in it
  // Fed after it, but for the last, which stays pending; empty: the row is what is wanted.
  std::vector<int32_t> replay;
  SessionPoint point;  // where the session stands in the end
};

// What a session remembers, apart from it: automatic checkpoints are left out. THREADS: any.
struct PastImage {
  TokenLog log;
  std::vector<CheckpointImage> checkpoints;  // oldest first
  int64_t last_number = 0;                   // of the last numbered one
};

// A value: a copy, for a fork, shares the saved rows. THREADS: engine thread only.
class SessionPast {
 public:
  // One that remembers nothing.
  SessionPast() : SessionPast(PastLimits(), nullptr) {}
  SessionPast(const PastLimits& limits, CheckpointTotals* totals)
      : limits_(limits), log_(limits.rewind_tokens), ring_(limits.checkpoint_bytes, totals) {}

  TokenLog& log() { return log_; }
  const TokenLog& log() const { return log_; }
  const CheckpointRing& ring() const { return ring_; }

  // As CheckpointRing::Keep; kNumbered without a name.
  absl::StatusOr<const Checkpoint*> Keep(std::string_view name, const SessionPoint& point,
                                         RowSource row);
  // An automatic checkpoint, where there may be one and none stands there already.
  void KeepAutomatic(const SessionPoint& point, RowSource row);
  // ERRORS: kNotFound for a checkpoint that is not there.
  absl::Status Drop(std::string_view name) { return ring_.Drop(name); }
  void DropAutomatic() { ring_.DropAutomatic(); }
  // Enough was fed since the last checkpoint for an automatic one.
  bool WantsAutomatic(int64_t fed) const;

  // How to get from `context` tokens to `target`; changes nothing.
  // ERRORS: kNotFound for a checkpoint that is not there; kOutOfRange, naming the oldest position
  // that can be reached, for one out of reach.
  absl::StatusOr<RewindPlan> PlanRewind(const RewindTarget& target, int64_t context) const;
  // The session takes the way of `plan`: what came after is forgotten.
  void Rewound(const RewindTarget& target, const RewindPlan& plan);

  // A copy, but for the rows, which are shared.
  PastImage Image() const;
  // Remembers what `image` of a session that stands at `point` holds, as far as the limits of this
  // one go. REQUIRES: this is new; the rows fit the session's.
  void Restore(PastImage image, const SessionPoint& point);

  // Every position from this one to the present can be reached by rewinding.
  int64_t OldestRewind(int64_t context) const;

 private:
  absl::StatusOr<RewindPlan> PlanToName(const std::string& name, int64_t context) const;
  absl::StatusOr<RewindPlan> PlanToPosition(int64_t position, int64_t context) const;

  PastLimits limits_;
  TokenLog log_;
  CheckpointRing ring_;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SESSION_PAST_H_
