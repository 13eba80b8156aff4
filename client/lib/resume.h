// What it takes to go on with a call that broke off: which ends those are, when to try again, and
// what the client has already.
#ifndef GMA_CLIENT_LIB_RESUME_H_
#define GMA_CLIENT_LIB_RESUME_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gma/v1/generation.pb.h"

namespace gma::client {

// The server did not refuse the call: it, or something between, is gone, restarts or drains. Behind
// a proxy a server that dies shows as kUnknown, kInternal or kCancelled with a message that names
// RST_STREAM, without one as kUnavailable. A session that moved to another server is found there.
bool BrokeOff(const absl::Status& status);

// When to try again: after a random time that doubles from try to try, at least the server's hint.
// THREADS: one at a time.
class Retries {
 public:
  // `total`: from the first failure after Progress until no more tries are made.
  explicit Retries(absl::Duration total) : total_(total) {}

  // How long to wait before the next try; nothing: give up with `why`, the end of the last one.
  std::optional<absl::Duration> Next(const absl::Status& why);
  // Something came that was not there before.
  void Progress() { until_.reset(); }

 private:
  const absl::Duration total_;
  std::optional<absl::Time> until_;  // nothing: the last try went well
  absl::Duration pause_;
  absl::BitGen random_;
};

// A key that no other call has.
std::string RandomRequestKey();

using StreamRequest = std::variant<v1::GenerateRequest, v1::ResumeRequest>;

// One answer over as many calls as it takes. On a session they are the same turn (request_key,
// after); a private answer is drawn again with its seed, which gives the same tokens as long as the
// model is the same, and what was there before is compared and left out. THREADS: one at a time.
class AnswerProgress {
 public:
  // `resume` false: one call is all there is.
  AnswerProgress(StreamRequest request, bool resume);

  // Whether another call can go on with it: not with several answers of one prompt.
  bool resumable() const { return resume_; }
  // What the next call has to ask for.
  const StreamRequest& request() const { return request_; }
  // A call for request() is made again.
  void Again();

  // Takes an event of the present call, and out of it what is known already. False: nothing is
  // left. ERRORS: kDataLoss when a private answer comes out otherwise than before.
  absl::StatusOr<bool> Accept(v1::GenerateResponse& event);

 private:
  absl::StatusOr<bool> AcceptAgain(v1::GenerateResponse& event);

  StreamRequest request_;
  bool is_private_ = false, resume_;
  std::optional<v1::Started> started_;
  uint64_t last_ = 0;               // number of the last event that was let through
  std::vector<int32_t> token_ids_;  // of a private answer; the first has number 2
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_RESUME_H_
