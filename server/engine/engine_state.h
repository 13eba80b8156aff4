// What the engine's thread owns: sessions, requests, and what is between them.
#ifndef GMA_SERVER_ENGINE_ENGINE_STATE_H_
#define GMA_SERVER_ENGINE_ENGINE_STATE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "model/decoder/compiled_decoder.h"
#include "model/state/state_pool.h"
#include "server/engine/engine_shared.h"
#include "server/engine/engine_types.h"
#include "server/engine/keeper.h"
#include "server/engine/recovery.h"
#include "server/engine/request.h"
#include "server/engine/turn_history.h"
#include "server/engine/turn_replays.h"
#include "server/metrics/metrics.h"
#include "server/scheduler/scheduler.h"
#include "server/session/prefix_cache.h"
#include "server/session/session_table.h"

namespace gma {

// THREADS: as EngineCore, whose base it is.
class EngineState {
 protected:
  // All arguments are borrowed or shared as Engine::Create says.
  EngineState(const EngineOptions& options, CompiledDecoder& decoder, TokenTextFunction token_text,
              const Clock& clock, Metrics& metrics, std::unique_ptr<StatePool> pool,
              std::shared_ptr<EngineShared> shared, Keeper* keeper);
  ~EngineState() = default;

  using Name = std::pair<std::string, SessionId>;  // owner and id
  struct Waking {
    std::deque<EngineMessage> messages;  // that wait for it
    absl::Duration since;
    bool recovering = false;  // it is here, and catches up
    bool verifies = false;    // it is here, if it is still this server's
    bool woken = false;       // and has just come
  };

  // parking.cc: rows between pool and host memory.
  //
  // Whether so many rows are free; parks idle sessions other than `except` for it.
  bool MakeRows(int32_t rows, const Session* except = nullptr);
  bool ParkOne(const Session* except);
  // A row of the pool as it is kept. The session goes on with the numbers that were kept: one that
  // is brought back draws what it would have drawn here. REQUIRES: idle.
  std::shared_ptr<const RowBytes> Encode(Session& session);
  void Park(Session& session);
  // Brings it from memory to the pool; false: there is no room.
  bool Wake(Session& session);
  void CheckTiers() const;

  // prefix.cc.
  //
  // What a private request remembers.
  SessionPast PrivatePast() const;
  // REQUIRES: nothing was fed to the first candidate's session; its turn has begun.
  void StartFromPrefix(Request& request, absl::Span<const size_t> marks);
  // Keeps the state of `session`, of which all tokens are known, unless one near it was kept.
  void KeepPrefix(Request& request, const Session& session);

  // resume.cc.
  //
  // Numbers an event and keeps it; Emit also gives it to the reader, if that is its next one.
  static void Record(Request& request, StreamEvent& event);
  static void Emit(Request& request, StreamEvent event);

  const EngineOptions options_;
  CompiledDecoder& decoder_;
  const TokenTextFunction token_text_;
  const Clock& clock_;
  Metrics& metrics_;
  const std::unique_ptr<StatePool> pool_;  // outlives the table and the requests, which hold rows
  const std::shared_ptr<EngineShared> shared_;

  Keeper* const keeper_;  // null: there is no store

  SessionTable table_;
  PrefixCache prefixes_;  // shares rows of checkpoints, which the table counts
  std::vector<std::unique_ptr<Request>> requests_;  // in order of acceptance
  absl::flat_hash_map<const TokenStream*, Request*> by_stream_;
  absl::flat_hash_map<uint64_t, SessionTurns> turns_;  // by the session's number
  // Of the last turn of each session, by its number.
  absl::flat_hash_map<uint64_t, std::shared_ptr<TurnHistory>> histories_;
  TurnReplays replays_;
  const size_t parked_row_bytes_;  // of an encoded row
  std::map<Name, Waking> waking_;
  absl::flat_hash_map<Name, std::unique_ptr<Recovery>> recoveries_;
  std::optional<Name> woken_, verified_;  // whose messages are being dispatched
  bool doubtful_ = false;                 // the store did not say whether that session is ours
  absl::Duration next_long_turns_ = -absl::InfiniteDuration();  // look at turns that last long
  absl::Duration next_verify_ = -absl::InfiniteDuration();      // of sessions with an active turn
  int64_t verifying_ = 0;                                       // of those, now
  absl::flat_hash_map<uint64_t, Request*> held_;                // by Request::held_by
  uint64_t next_ticket_ = 1;
  absl::flat_hash_set<uint64_t> moving_;    // numbers of sessions on their way to disk
  int64_t wanted_bytes_ = 0;                // of the largest session that had no room
  int64_t leaving_bytes_ = 0;               // of their rows
  std::map<Name, absl::Duration> unsaved_;  // since when
  absl::Duration next_save_ = absl::InfiniteDuration();
  absl::Duration next_move_ = -absl::InfiniteDuration();  // to disk, after one that failed
  bool shutting_down_ = false;
  uint64_t next_turn_ = 1;
  bool ended_some_ = false;          // since the last sweep
  double mean_request_seconds_ = 1;  // moving average, for retry hints

  // Reused from step to step.
  FairShare fair_share_;
  std::vector<EngineMessage> messages_;
  // Wait until a row is free, or a turn that is run again is where its reader is; as they came.
  std::deque<EngineMessage> for_room_;
  std::vector<RowView> views_;
  std::vector<StepPart> view_parts_, parts_;  // beside views_; of the step
  std::vector<StepRow> step_rows_;
  std::vector<float> logits_;         // [max_batch_rows, vocab]
  std::vector<float> answer_logits_;  // [vocab], for the answers of one prompt
  int64_t paused_ = 0;                // requests left out of the last step for want of room
  int64_t detached_ = 0;              // because nobody reads them
  int64_t drawn_tokens_ = 0;          // in this step
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_ENGINE_STATE_H_
