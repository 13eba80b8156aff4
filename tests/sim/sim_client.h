// The clients of the simulation: one for each stream, and the sessions they share.
#ifndef GMA_TESTS_SIM_SIM_CLIENT_H_
#define GMA_TESTS_SIM_SIM_CLIENT_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "tests/sim/history.h"

namespace gma::testing {

// A session as its clients know it.
struct SimSession {
  std::string owner;
  absl::Duration ttl, opened_at;
  std::optional<SessionId> id;  // once it is open
  bool refused = false;         // it never was
  bool returned = false;  // to a checkpoint by its name: it may have forgotten what came before
  bool close_asked = false;
  bool ended = false;       // closed, expired or lost
  bool unfollowed = false;  // nothing that it does is compared any more
  std::vector<History> possible = {History()};
  // Turns in the order they were posted, from the oldest whose effect is not known yet.
  std::deque<std::shared_ptr<SeenTurn>> turns;

  // Takes in the effects of the turns that have ended, oldest first.
  void Resolve();
};

// The reader of one Generate.
class SimStream {
 public:
  SimStream(std::shared_ptr<TokenStream> stream, const GenerateSpec& spec,
            std::shared_ptr<SimSession> session, bool eager, int64_t step);

  // Takes what is there and checks it. `step`: steps of the decoder so far.
  void Read(absl::Duration now, int64_t step);
  // REQUIRES: called after a tick in which the engine saw the present time.
  void CheckPromises(absl::Duration now, int64_t step, int64_t wait_bound) const;

  const std::shared_ptr<TokenStream>& stream() const { return stream_; }
  const std::shared_ptr<SimSession>& session() const { return session_; }
  bool ended() const { return status_.has_value(); }
  const absl::Status& status() const { return *status_; }
  // Reads at every tick and has credit for everything.
  bool eager() const { return eager_; }
  void set_cancelled() { cancelled_ = true; }

 private:
  void OnEvent(StreamEvent& event, int64_t step);
  void CheckEnd(absl::Duration now);

  const std::shared_ptr<TokenStream> stream_;
  const std::shared_ptr<SimSession> session_;  // null: a private request
  const absl::Duration deadline_;
  const bool eager_;
  std::vector<std::shared_ptr<SeenTurn>> answers_;  // by candidate
  std::optional<absl::Status> status_;
  bool started_ = false, cancelled_ = false;
  int64_t last_event_step_;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_SIM_CLIENT_H_
