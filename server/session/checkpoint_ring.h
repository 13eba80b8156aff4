// Copies of a session's state row, each with where the session stood: what it can go back to at the
// price of one copy. Bounded by bytes.
#ifndef GMA_SERVER_SESSION_CHECKPOINT_RING_H_
#define GMA_SERVER_SESSION_CHECKPOINT_RING_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/state/row_memory.h"
#include "server/session/session_point.h"

namespace gma {

// What all checkpoints of the server take; a copy that forks share counts once.
struct CheckpointTotals {
  int64_t count = 0, bytes = 0;
  // Whether so many bytes more may be taken now; makes room where it can, also at the expense of
  // automatic checkpoints of any session. None: always.
  std::function<bool(size_t bytes)> reserve = nullptr;
};

// A copy of a state row in host memory. Shared by the rings of a session and its forks.
class SavedRow {
 public:
  // `totals` outlives the copy.
  SavedRow(RowSource row, CheckpointTotals& totals);
  SavedRow(std::shared_ptr<const RowBytes> bytes, CheckpointTotals& totals);
  SavedRow(const SavedRow&) = delete;
  SavedRow& operator=(const SavedRow&) = delete;
  ~SavedRow();

  absl::Span<const uint8_t> bytes() const { return *bytes_; }
  // For who keeps them longer, on whatever thread; they are then no longer counted.
  const std::shared_ptr<const RowBytes>& shared() const { return bytes_; }

 private:
  const std::shared_ptr<const RowBytes> bytes_;
  CheckpointTotals& totals_;
};

enum class CheckpointKind {
  kAutomatic,  // at ends of turns and every few tokens; the first to go
  kNumbered,   // asked for without a name; goes when there is no automatic one to go
  kNamed,      // stays until its name is used again
};

struct Checkpoint {
  CheckpointKind kind;
  std::string name;  // empty: automatic
  SessionPoint point;
  // So many of the session's present tokens are those that the checkpoint has read. Fewer than it
  // holds once the session was rewound to before it: it then belongs to another past.
  int64_t shared_tokens;
  std::shared_ptr<const SavedRow> row;

  bool of_present_past() const { return shared_tokens >= point.context_tokens(); }
};

// A checkpoint that was asked for, apart from its session. THREADS: any; the row never changes.
struct CheckpointImage {
  CheckpointKind kind = CheckpointKind::kNumbered;  // or kNamed
  std::string name;
  SessionPoint point;
  int64_t shared_tokens = 0;  // as in Checkpoint
  std::shared_ptr<const RowBytes> row;
};

// A value: a copy shares the rows. THREADS: engine thread only.
class CheckpointRing {
 public:
  // `limit`: bytes of rows held at most. `totals` outlives the ring; null where limit is 0.
  CheckpointRing(size_t limit, CheckpointTotals* totals) : limit_(limit), totals_(totals) {}

  // Keeps a copy of `row`. A kNamed one takes the place of that name; `name` is ignored for others.
  // What has to go to make room goes by kind, the oldest first; an automatic one drives out its
  // own kind only.
  // ERRORS: kResourceExhausted, naming bytes and limit, when nothing may go for it, here or in
  // what all sessions have together.
  absl::StatusOr<const Checkpoint*> Keep(CheckpointKind kind, std::string_view name,
                                         const SessionPoint& point, RowSource row);
  // Null: there is none of this name. REQUIRES: name is not empty.
  const Checkpoint* Find(std::string_view name) const;
  // Oldest first.
  const std::vector<Checkpoint>& all() const { return checkpoints_; }
  // Tokens fed at the newest checkpoint of the present past; 0: there is none.
  int64_t latest_fed() const;
  size_t bytes() const { return bytes_; }

  // All that are not automatic, oldest first, and the last number given.
  std::vector<CheckpointImage> Images() const;
  int64_t last_number() const { return last_number_; }
  // Holds what another ring did, as far as it goes: numbered ones go first, the oldest of them
  // first. REQUIRES: the ring is new; the rows have one size.
  void Restore(std::vector<CheckpointImage> images, int64_t last_number);

  // ERRORS: kNotFound for a name that is not there.
  absl::Status Drop(std::string_view name);
  void DropAutomatic();

  // The session's tokens from `context` on are gone, and automatic checkpoints after it with them.
  void Diverge(int64_t context);
  // The session stands at the checkpoint called `name` again. REQUIRES: there is one.
  void Return(std::string_view name);

 private:
  // The one that goes for a new one of `kind` called `name`: of that name, or, where the ring is
  // full, what may go; end() when none goes.
  std::vector<Checkpoint>::iterator Replaced(CheckpointKind kind, std::string_view name,
                                             size_t bytes);
  // What may go for one of `kind`; end() when nothing may.
  std::vector<Checkpoint>::iterator Victim(CheckpointKind kind);
  void Erase(const std::vector<Checkpoint>::iterator& checkpoint);
  std::string NextNumber();

  size_t limit_;
  CheckpointTotals* totals_;
  std::vector<Checkpoint> checkpoints_;  // oldest first
  size_t bytes_ = 0;
  int64_t last_number_ = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_CHECKPOINT_RING_H_
