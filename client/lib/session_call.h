// What is below a Session: its commands, and their events, over as many streams as it takes.
#ifndef GMA_CLIENT_LIB_SESSION_CALL_H_
#define GMA_CLIENT_LIB_SESSION_CALL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
#include "client/lib/call.h"
#include "client/lib/resume.h"
#include "client/lib/session_stream.h"
#include "gma/v1/generation.grpc.pb.h"

namespace gma::client {

// A stream that broke off is followed by another one when the session outlives it
// (SessionOpen.keep) and the client wants that: whoever waits for an event opens it, and the
// commands that have no answer yet are sent again. Their request keys make them the same turns; the
// events of a turn go on behind the last one that came.
//
// The server can tell by its key whether the session's last turn is a command's, and by `after`
// whether the session is where the command was meant for. So that this is enough for each of them:
// what would be a turn behind an Append that has no answer yet waits for that here, and input that
// enters an answer has `after` too, so that it is not fed behind an end that was not seen; it is
// then refused, and sent again behind that end.
//
// THREADS: any; at most one waits in Next.
class SessionCall : public std::enable_shared_from_this<SessionCall> {
 public:
  SessionCall(const StreamEnvironment& env, v1::SessionOpen open);
  // Opens the session. Next(kOpenId) brings `opened`.
  static std::shared_ptr<SessionCall> Start(const StreamEnvironment& env, v1::SessionOpen open);
  static constexpr uint64_t kOpenId = 1;

  // Sends a command whose events are wanted; returns its request id. They wait until Forget.
  uint64_t Send(v1::SessionRequest request) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the active turn early. Its end is an event of the command that began it.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  // Tokens that were read; the server may send as many more.
  void Grant(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(uint64_t request_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits until Next(request_id) has something to do, `timeout` at most.
  bool Wait(uint64_t request_id, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // The next event that answers `request_id`, heartbeats left out. `resume` false: a stream that
  // broke off is not followed by another.
  // ERRORS: a SessionError as its status; the status of the last stream once it is over
  // (kUnavailable when it ended without `ended`); kDeadlineExceeded after `timeout`.
  absl::StatusOr<v1::SessionResponse> Next(uint64_t request_id, absl::Duration timeout,
                                           bool resume = true) ABSL_LOCKS_EXCLUDED(mutex_);

  // Breaks off for good, unless it is over.
  void Abort() ABSL_LOCKS_EXCLUDED(mutex_);
  // Every further command fails.
  bool over() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Streams after the first.
  int resumes() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Number of the session's last event, as far as it can be known from here: `after` of a command
  // that would be sent now.
  std::optional<uint64_t> last_sequence() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using EventQueue = std::deque<v1::SessionResponse>;
  // A command that has not been answered to its end.
  struct Pending {
    v1::SessionRequest request;
    bool sent = false;       // on the present stream
    bool again = false;      // on an earlier one: it may have been done there
    bool numbered = false;   // its `after` is from here, not the caller's
    bool begun = false;      // a generate: an event of its turn came
    bool cancelled = false;  // a generate
    // An append that was on its way into a turn when the stream broke off. Whether it entered is
    // seen in the rest of the turn.
    bool unclear = false;
  };

  void StartStream() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the commands whose turn it is.
  void SendDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendNow(Pending& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tokens came while input waits for the rest of its turn to show whether it entered. Whoever
  // reads the turn may be waiting for that input, so they are granted again unread.
  void GrantUnread(int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendCredit(int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing more is to come of `command`, or wanted of it.
  void Erase(std::map<uint64_t, Pending>::iterator command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnEvent(int attempt, v1::SessionResponse event) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnOver(int attempt, absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);
  void TakeOpened(const v1::SessionOpened& opened) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes note of what the event means for commands that have no answer yet; may give it to another
  // of them than it names. False: it is nobody's, as the command it answers is sent once more.
  bool Settle(v1::SessionResponse& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayResume() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return env_.resume_for > absl::ZeroDuration() && open_.keep() && !aborted_ && !ended_;
  }
  bool CanResume() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Another stream, after a while. False: it stays as it is.
  bool Reopen(absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Ready(const EventQueue& queue) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !queue.empty() || status_.has_value();
  }

  const StreamEnvironment env_;
  const int64_t credit_;  // tokens on their way or not granted again, at most

  mutable absl::Mutex mutex_;
  v1::SessionOpen open_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<SessionStream> stream_ ABSL_GUARDED_BY(mutex_);
  int attempt_ ABSL_GUARDED_BY(mutex_) = 0;  // number of the stream
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mutex_);     // by request id
  std::map<uint64_t, EventQueue> waiting_ ABSL_GUARDED_BY(mutex_);  // likewise
  int64_t owed_ ABSL_GUARDED_BY(mutex_) = 0;  // tokens that came and were not granted again
  int64_t unread_ ABSL_GUARDED_BY(mutex_) =
      0;  // tokens that were granted again before they were read
  SequenceCheck sequence_ ABSL_GUARDED_BY(mutex_);
  // The last event seen is the session's last one, unless what is pending has made more.
  bool knows_last_ ABSL_GUARDED_BY(mutex_) = false;
  Retries retries_ ABSL_GUARDED_BY(mutex_);
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;                  // the server's polite end was read
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);                 // why this side gave the stream up
  std::optional<absl::Status> status_ ABSL_GUARDED_BY(mutex_);  // set while no stream is there
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_SESSION_CALL_H_
