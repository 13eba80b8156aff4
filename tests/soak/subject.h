// One side of a soak: a server process, and the session on it that is soaked.
#ifndef GMA_TESTS_SOAK_SUBJECT_H_
#define GMA_TESTS_SOAK_SUBJECT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/lib/client.h"
#include "gma/v1/sessions.pb.h"
#include "tests/soak/turns.h"
#include "tests/support/running_server.h"

namespace gma::soak {

// What came of a turn.
struct Outcome {
  std::vector<std::string> drawn;  // serialized v1::Token, with logprobs
  int64_t drawn_before = 0;        // kDuplex: tokens drawn before the interjection
  double append_seconds = 0;       // kAppend: as the client saw it
  double decode_seconds = 0;       // from the first token to the last, as the server saw it
};

// THREADS: one at a time.
class Subject {
 public:
  static absl::StatusOr<std::unique_ptr<Subject>> Start(const std::string& program,
                                                        std::vector<std::string> flags);

  testing::RunningServer& server() { return *server_; }
  client::Client& client() { return *client_; }
  const std::string& session() const { return session_; }
  absl::StatusOr<v1::SessionInfo> Info() { return client_->GetSession(session_); }

  // `meanwhile`: called once when the first token of an answer is here.
  // ERRORS: the server's; kDataLoss for an answer of another length than was asked for.
  absl::StatusOr<Outcome> Take(const Turn& turn, const std::function<absl::Status()>& meanwhile);
  // The same tokens as `turn` on another subject has led to, each as a turn of its own:
  // `drawn_before` is that one's.
  absl::StatusOr<Outcome> TakeApart(const Turn& turn, int64_t drawn_before);
  absl::StatusOr<Outcome> Append(const std::vector<int32_t>& tokens);
  // An answer on any session.
  absl::StatusOr<Outcome> Answer(const std::string& session, const Turn& turn, int32_t top_logprobs,
                                 const std::function<absl::Status()>& meanwhile = nullptr);

  // Drives the session down by others that need the room. REQUIRES: the server parks.
  absl::Status Park(v1::SessionTier tier);

 private:
  Subject() = default;
  absl::StatusOr<Outcome> Duplex(const Turn& turn);

  std::unique_ptr<testing::RunningServer> server_;
  std::unique_ptr<client::Client> client_;
  std::string session_;
};

}  // namespace gma::soak

#endif  // GMA_TESTS_SOAK_SUBJECT_H_
