// A conversation: the session on the server that it stands in, the others that were forked from it
// or gone to, the settings, and what the last answer cost.
#ifndef GMA_CLIENT_CLI_CHAT_H_
#define GMA_CLIENT_CLI_CHAT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/cli/flags.h"
#include "client/cli/terminal.h"
#include "client/lib/client.h"

namespace gma::client {

// Figures of answers. Times are those a person sees, the network included.
struct ChatStats {
  int64_t answers = 0, tokens = 0;           // of the conversation
  int64_t last_prompt = 0, last_tokens = 0;  // of the last answer
  absl::Duration last_first_token, last_total;
};

// THREADS: one at a time, but for Interrupt.
class Chat {
 public:
  // REQUIRES: all outlive the chat. `model`: as the server described it.
  Chat(Client& client, ChatFlags& flags, v1::ModelInfo model, Terminal& terminal);

  // Waits for the answer to `text` and shows it as it comes. The session is opened by the first.
  // ERRORS: the server's; what was shown of the answer stays.
  absl::Status Say(std::string_view text);
  // The answer to one prompt, without a stream for a whole conversation.
  absl::Status SayOnce(std::string_view text);

  // Stops the answer that runs; returns how often it was asked to during this answer, 0 when none
  // runs. THREADS: any.
  int Interrupt();

  // The next message starts a session with an empty past.
  absl::Status StartAnew();
  // Goes on in a copy of the session; returns the id of the one that stays behind.
  absl::StatusOr<std::string> Fork();
  // Goes on in another session: by the beginning of its id one that this chat has open, else any
  // of the user's, which then stays open when the chat ends.
  absl::Status GoTo(std::string_view id);
  // Goes back to before the last message; returns it.
  // ERRORS: kFailedPrecondition when none is left that was said here; the server's.
  absl::StatusOr<std::string> Undo();
  // Says the last message again, with another seed.
  absl::Status Retry();
  // Whether the server keeps the session's state at hand, whatever else it has to do.
  absl::Status Pin(bool pinned);
  // Keeps the present state, under a number without a name, and goes back to one that was kept.
  absl::StatusOr<v1::CheckpointInfo> Save(std::string_view name);
  absl::StatusOr<v1::SessionInfo> Load(std::string_view name);
  // Writes the session to a file, sealed; and goes on in a session read from one, which is new.
  absl::StatusOr<int64_t> Export(const std::string& path);  // bytes
  absl::Status Import(const std::string& path);
  // The polite end; with `keep`, says how to go on.
  absl::Status End();
  // Closes what is not to be kept, if the server answers at once. THREADS: any.
  void CloseBeforeExit();

  // Opens the session if there is none.
  absl::Status EnsureSession();
  // Of the session that there is. ERRORS: the server's.
  absl::StatusOr<v1::SessionInfo> SessionInfo();

  const ChatStats& stats() const { return stats_; }
  const v1::ModelInfo& model() const { return model_; }
  ChatFlags& flags() { return flags_; }
  Terminal& terminal() { return terminal_; }

 private:
  // A message, and the tokens that the session held before it.
  struct Turn {
    int64_t context_before;
    std::string text;
  };
  // An open session, on a stream of its own. The server keeps it when the stream breaks off, so
  // that the chat can go on.
  struct Place {
    std::unique_ptr<Session> session;
    bool keep = false;                               // it outlives the chat
    bool fresh = false;                              // nothing was fed to it yet
    std::vector<Turn> turns;                         // said here, oldest first
    std::map<std::string, std::vector<Turn>> saved;  // as they were at checkpoints, by name
  };

  // Opens a session, or goes on with the one of this id, and stands there.
  absl::Status Enter(const std::string& id, bool keep);
  // Forgets where the chat stands; the session's stream ends with it.
  void Leave();
  // Ends a session, unless it is kept.
  absl::Status EndOne(Place& place);
  absl::Status SayWith(std::string_view text, std::optional<uint64_t> seed);
  v1::Input InputOf(std::string_view text, bool fresh) const;
  absl::Status Show(AnswerStream& answer);
  void Account(const v1::Finished& finished, absl::Duration first_token, absl::Duration total);

  Client& client_;
  ChatFlags& flags_;
  const v1::ModelInfo model_;
  Terminal& terminal_;
  std::vector<std::unique_ptr<Place>> places_;
  Place* here_ = nullptr;  // of places_; null: the next message opens one
  ChatStats stats_;

  absl::Mutex mutex_;
  AnswerStream* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int interrupts_ ABSL_GUARDED_BY(mutex_) = 0;             // of the running answer
  std::set<std::string> closing_ ABSL_GUARDED_BY(mutex_);  // ids that end with this chat
};

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_CHAT_H_
