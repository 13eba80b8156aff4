// What the engine is asked and what it answers (engine.h), as plain values.
#ifndef GMA_SERVER_ENGINE_ENGINE_TYPES_H_
#define GMA_SERVER_ENGINE_ENGINE_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/sampling/sampling_params.h"
#include "model/state/row_codec.h"
#include "server/engine/token_stream.h"
#include "server/session/session_id.h"
#include "server/session/session_past.h"
#include "server/session/session_phase.h"
#include "server/session/session_tier.h"

namespace gma {

// What survives the end of the process, where there is a store (docs/SESSIONS.md, "Durability").
enum class Durability {
  kNone,      // sessions that were parked to disk, and all of them after an orderly shutdown
  kInterval,  // turns are written down before they start, and synced every so often
  kAlways,    // and synced before they start
};

struct EngineOptions {
  int32_t max_sessions = 128;            // state rows in the pool
  int32_t max_waiting = 256;             // requests accepted and not scheduled yet
  int32_t max_sessions_per_owner = 128;  // of one owner in all tiers, private requests included
  int32_t max_batch_rows = 64;           // as the decoder was loaded with
  int32_t max_step_tokens = 64;          // likewise; also the longest stall a prefill can cause
  absl::Duration default_ttl = absl::Minutes(30);  // idle time until a session expires
  size_t stream_capacity = 256;     // token events a slow reader can leave waiting, >= 16
  std::vector<int32_t> end_tokens;  // the model's
  PastLimits past = {};             // what each session remembers
  size_t prefix_bytes = 0;          // of states kept for requests that begin alike; 0: none
  int64_t park_memory_bytes = int64_t{1} << 30;     // of parked rows and of all checkpoints
  RowEncoding park_format = RowEncoding::kFloat32;  // of parked rows, and in the store
  Durability durability = Durability::kInterval;
  int64_t snapshot_tokens = 4096;  // fed since the last snapshot, until the next turn makes one
  int64_t owner_disk_bytes = INT64_MAX;  // of one owner's sessions in the store
  // Events of a session's last turn that are kept for Resume, the last ones; >= 1.
  int64_t resume_events = 65536;
  std::function<SessionId()> new_session_id = SessionId::Random;  // a simulation's: from its seed
  // How long a turn on a session whose reader is gone waits for a Resume; zero: it ends at once.
  absl::Duration resume_window = absl::ZeroDuration();
};

// Bytes of a token as text shown to a person: empty for control tokens.
// THREADS: called from the engine's thread; the text outlives the engine.
using TokenTextFunction = std::function<std::string_view(int32_t)>;

// What to feed. On a session whose last turn was an assistant's answer, `close_tokens` (the end of
// an answer in the model's chat format) comes first, without those of it that the answer has
// already drawn; so a chat goes on correctly after an end token, a length stop and a cancel. Where
// nothing was fed before, `opening_tokens` (the model's default system message) comes first.
// `marks` are the ends, within `tokens`, of messages that another one follows, ascending: other
// requests may begin with the same text up to there.
struct InputTokens {
  std::vector<int32_t> tokens;
  std::vector<int32_t> close_tokens = {}, opening_tokens = {};  // only for chat input, like marks
  std::vector<size_t> marks = {};
};

// REQUIRES of all fields: checked against the limits table by the caller.
struct GenerateSpec {
  std::string owner;                 // authenticated; never from the request
  std::optional<SessionId> session;  // nothing: a private session that ends with the request
  InputTokens input;                 // empty: go on from where the session stands
  SamplingParams sampling;
  StopParams stop;
  int32_t n = 1;  // answers; more than 1 only for a private session
  bool wait_if_busy = false;
  int32_t priority = 0;
  absl::Duration deadline = absl::InfiniteDuration();      // on Clock::Monotonic()
  int64_t initial_credit = TokenStream::kUnlimitedCredit;  // all n answers draw on it together
  // On a session: when its last turn is a Generate with this key, the call is that turn
  // (ResumeSpec) and nothing else in the spec counts. Empty: a new turn.
  std::string request_key = {};
  // On a session: the turn begins only if the session's last event has this number.
  std::optional<int64_t> after = {};
};

// Events of a session's last turn with numbers greater than `after`: those kept, then live.
struct ResumeSpec {
  std::string owner;
  SessionId session;
  int64_t after = 0;
  absl::Duration deadline = absl::InfiniteDuration();
  int64_t initial_credit = TokenStream::kUnlimitedCredit;
};

struct AppendSpec {
  std::string owner;
  SessionId session;
  InputTokens input;  // not empty
  bool wait_if_busy = false;
  absl::Duration deadline = absl::InfiniteDuration();
  // As in GenerateSpec, of an Append; one with a key runs to its end once it has begun.
  std::string request_key = {};
  std::optional<int64_t> after = {};  // as in GenerateSpec, of an Append
  // The input enters the turn of this stream while that is active (Append), or stands right behind
  // it (CancelAndAppend); null, or when the turn is over: an ordinary append.
  std::shared_ptr<TokenStream> turn = nullptr;
  uint64_t request_id = 0;  // in AppendedEvent, for the reader of `turn`
  // Whether its caller is gone, who then finds it not done; null: never. Not asked after `done`.
  std::function<bool()> abandoned = nullptr;
};

struct OpenSpec {
  std::string owner;
  absl::Duration ttl = absl::ZeroDuration();  // zero: the default
  bool pinned = false;                        // as by Pin
};

struct RewindSpec {
  std::string owner;
  SessionId session;
  RewindTarget target;
  absl::Duration deadline = absl::InfiniteDuration();  // to begin by
  std::optional<int64_t> after = {};                   // as in GenerateSpec
  std::function<bool()> abandoned = nullptr;           // as in AppendSpec
};

struct CheckpointInfo {
  std::string name;  // empty: automatic
  int64_t context_tokens;
  bool automatic;
};

struct SessionSnapshotInfo {
  SessionId id;
  SessionPhase phase;
  int64_t context_tokens;  // fed, pending token included
  absl::Duration age, idle, ttl;
  int64_t checkpoints, checkpoint_bytes;  // kept for it; forks share bytes
  int64_t oldest_rewind;                  // from here to the present, every position can be reached
  int64_t last_sequence = 0;              // number of its last event
  bool turn_active = false;               // perhaps a detached one
  bool detached = false;                  // the active turn waits for a Resume
  SessionTier tier = SessionTier::kPool;
  bool pinned = false;
  // Of an Append:
  int64_t appended_tokens = 0;  // that it brought
  bool entered_turn = false;    // the AppendedEvent in the turn's stream answers it
};

struct EngineStatus {
  int32_t rows_used, rows_total;
  int64_t requests_running, requests_waiting;
};

// Session calls answer through a callback, once, on the engine's thread (or on the caller's when
// the call is refused at once). A callback must not block and must not call the engine back under
// a lock of its own that another thread holds while calling the engine.
template <typename T>
using EngineCallback = absl::AnyInvocable<void(absl::StatusOr<T>)>;

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_TYPES_H_
