// An application that talks to a server through the client library, and writes down what it sees.
#ifndef GMA_TESTS_CHAOS_APPLICATION_H_
#define GMA_TESTS_CHAOS_APPLICATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/lib/client.h"
#include "tests/chaos/history.h"
#include "tests/chaos/script.h"

namespace gma::chaos {

// Opens what Export gives out: the row and what else a session holds, as bytes to compare.
using OpenState = std::function<absl::StatusOr<std::string>(std::string_view blob)>;

// One session from its opening to its end, a step at a time. What the library does not do by itself
// (calls that may not be made twice without thinking) is tried again here, as an application would.
// THREADS: one at a time.
class Conversation {
 public:
  // `client` and `open_state` outlive it. `patience`: for how long calls that break off are tried
  // again. `seen`: null, or what another conversation of the same script saw; it outlives this one.
  // Where that one cancelled an answer, this one asks for just as many tokens; where input entered
  // an answer, it is fed between an answer up to there and one that goes on.
  Conversation(client::Client& client, Script script, const OpenState& open_state,
               absl::Duration patience, const SeenSession* seen = nullptr);

  // The next step, the last of which exports and closes the session. False: it is over.
  bool Step();
  // Once it is over.
  SeenSession TakeSeen() { return std::move(seen_); }
  int64_t tokens() const { return tokens_; }
  int64_t resumes() const { return resumes_; }  // answers taken up again by the library

 private:
  absl::Status Open();
  absl::Status OpenStream();
  absl::Status Do(const chaos::Step& step);
  absl::Status Generate(const chaos::Step& step, SeenTurn& turn);
  absl::Status GenerateAs(const SeenTurn& seen, chaos::Step step, SeenTurn& turn);
  absl::Status GenerateAround(const SeenTurn& seen, chaos::Step step, SeenTurn& turn);
  std::unique_ptr<client::AnswerStream> Begin(const chaos::Step& step);
  absl::Status Append(const chaos::Step& step, SeenTurn& turn);
  absl::Status Rewind(const chaos::Step& step);
  absl::Status Fork();
  absl::Status Read(client::AnswerStream& answer, const chaos::Step& step, SeenTurn& turn);
  // Where the input that was given meanwhile stands in the answer, as the contexts say; the numbers
  // of the events have to say the same.
  absl::Status PlaceInput(SeenTurn& turn);
  absl::Status LookAt(SeenTurn& turn);  // what the server says of the session
  absl::Status End();
  // Calls until the server has an answer.
  absl::Status Insist(const std::function<absl::Status()>& call) const;

  client::Client& client_;
  const Script script_;
  const OpenState& open_state_;
  const absl::Duration patience_;
  const SeenSession* const seen_before_;
  size_t next_ = 0;
  std::string id_;  // empty: not opened yet
  std::unique_ptr<client::Session> stream_;
  int64_t context_ = 0;
  int64_t input_context_ = 0;  // with the input that was given while an answer was drawn
  uint64_t last_ = 0;          // number of the last event seen
  // A fork counts from 1. So that one check does for all, its numbers go on where it was made.
  uint64_t base_ = 0;
  SeenSession seen_;
  int64_t tokens_ = 0, resumes_ = 0;
};

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_APPLICATION_H_
