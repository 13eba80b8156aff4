// Readers that are behind their turn: what they get of its history, also when the turn is over.
#ifndef GMA_SERVER_ENGINE_TURN_REPLAYS_H_
#define GMA_SERVER_ENGINE_TURN_REPLAYS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "server/engine/token_stream.h"
#include "server/engine/turn_history.h"

namespace gma {

// Events after `after` are wanted and the oldest one kept is `oldest` (kOutOfRange).
absl::Status GoneError(int64_t after, int64_t oldest);
// The session's events are fewer than its reader has seen (kDataLoss).
absl::Status StateTooOldError(int64_t after, int64_t last);
// They may be, and the store, which knows, does not answer (kUnavailable).
absl::Status DoubtfulError();
// Another server has the session now (kAborted).
absl::Status MovedError();
// Whoever asked for the turn does not wait for it any more (kCancelled).
absl::Status AbandonedError();

// Gives `stream` the events after `delivered` as far as there is room, and the end of a turn that
// is over. Returns whether the stream was closed. THREADS: engine thread only.
bool Deliver(TokenStream& stream, const TurnHistory& history, int64_t& delivered);

// Those of turns that are over. THREADS: engine thread only.
class TurnReplays {
 public:
  // `session`: its number.
  void Add(uint64_t session, std::shared_ptr<TokenStream> stream,
           std::shared_ptr<const TurnHistory> history, int64_t delivered);
  // A newer reader of the session has come.
  void TakeOver(uint64_t session);
  // Gives what there is room for; returns whether there was anything.
  bool Pump();
  void CloseAll(const absl::Status& status);

 private:
  struct Replay {
    uint64_t session;
    std::shared_ptr<TokenStream> stream;
    std::shared_ptr<const TurnHistory> history;
    int64_t delivered;
  };
  std::vector<Replay> replays_;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_TURN_REPLAYS_H_
