// A conversation on one session, over one bidirectional stream.
#ifndef GMA_CLIENT_LIB_SESSION_H_
#define GMA_CLIENT_LIB_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lib/answer.h"
#include "client/lib/call.h"
#include "gma/v1/generation.grpc.pb.h"

namespace gma::client {

class SessionCall;  // session_call.h

// Destroying it without End breaks the stream off, which the server does not take for an end:
// a session that was not opened with `keep` is closed all the same. One with `keep` goes on over
// another stream when one breaks off, with what was being done (ClientOptions::resume_for): each
// command says which event it was meant to follow (`after`), so a server whose state is older than
// what came from it refuses with kDataLoss, and nothing is fed twice.
// THREADS: one at a time, except where noted. Answers must be destroyed before the session.
class Session {
 public:
  // Opens or resumes, within `deadline`, which also bounds End.
  // ERRORS: the server's; kDeadlineExceeded.
  static absl::StatusOr<std::unique_ptr<Session>> Open(const StreamEnvironment& env,
                                                       v1::SessionOpen open,
                                                       absl::Duration deadline);
  ~Session();

  // What the server said at the start: id, model, whether it was resumed, tokens so far.
  const v1::SessionOpened& opened() const { return opened_; }
  const std::string& id() const { return opened_.session_id(); }

  // Feeds input without generating; waits until it is fed. Returns the tokens of the session.
  // ERRORS: those of the command leave the session usable (see broken).
  absl::StatusOr<int64_t> Append(v1::Input input);

  // Starts an answer; a refusal is what its Next says. Credit is granted as pieces are consumed:
  // a reader that stops pauses this session on the server, and nobody else.
  std::unique_ptr<AnswerStream> Generate(v1::SessionGenerate command);

  // The polite end. Returns the tokens of the session. Nothing else may be called after it.
  absl::StatusOr<int64_t> End();

  // Number of the session's last event: `after` of calls on the session beside this stream. Nothing
  // where it cannot be known: while an answer runs, or after somebody else's turns.
  std::optional<uint64_t> last_sequence() const;

  // Every further command fails. THREADS: any.
  bool broken() const;

 private:
  Session(std::shared_ptr<SessionCall> call, v1::SessionOpened opened, int64_t credit,
          absl::Duration deadline);

  const std::shared_ptr<SessionCall> call_;
  const v1::SessionOpened opened_;
  const int64_t credit_;  // tokens in flight at most
  const absl::Duration deadline_;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_SESSION_H_
