// Connections to one Redis server, with a deadline over each whole call; hiredis parses the
// replies.
#ifndef GMA_SERVER_STORE_REDIS_CLIENT_H_
#define GMA_SERVER_STORE_REDIS_CLIENT_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/mutex.h"

struct redisContext;
struct redisReply;

namespace gma {

struct RedisAddress {
  std::string host;  // or
  std::string unix_path;
  int port = 6379;
  std::string password;  // empty: none
  int database = 0;
};
// Reads redis://[:password@]host[:port][/database] or unix:/path; an IPv6 address stands in
// brackets. ERRORS: kInvalidArgument; the message does not repeat the text, which may hold a
// password.
absl::StatusOr<RedisAddress> ParseRedisAddress(std::string_view url);

struct RedisReplyDeleter {
  void operator()(redisReply* reply) const;
};
using RedisReply = std::unique_ptr<redisReply, RedisReplyDeleter>;

// One connection. THREADS: one at a time.
class RedisConnection {
 public:
  // Connects, authenticates and selects the database before `deadline`, a time of
  // Clock::Monotonic.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Open(const RedisAddress& address,
                                                               const Clock& clock,
                                                               absl::Duration deadline);
  ~RedisConnection();

  // Sends a command and waits for its reply, never an error reply: that is the status. After
  // kUnavailable or a reply nobody can read, usable() is false.
  absl::StatusOr<RedisReply> Call(absl::Span<const std::string_view> words,
                                  absl::Duration deadline);
  // False when the server closed the connection, or it is out of step with its replies.
  bool usable() const;

 private:
  RedisConnection(redisContext* context, const Clock& clock);
  absl::Status WaitFor(short events, absl::Duration deadline) const;
  absl::Status Connected(absl::Duration deadline) const;
  absl::Status Send(absl::Span<const std::string_view> words, absl::Duration deadline);
  absl::StatusOr<RedisReply> Receive(absl::Duration deadline);

  redisContext* const context_;
  const Clock& clock_;
  std::vector<char> buffer_;  // for what arrives
  bool broken_ = false;
};

// A script of ours with the digest under which the server knows it.
class RedisScript {
 public:
  explicit RedisScript(const char* text) : text_(text) {}
  const char* text() const { return text_; }
  std::string digest() const {
    MutexLock lock(&mutex_);
    return digest_;
  }
  void set_digest(std::string digest) {
    MutexLock lock(&mutex_);
    digest_ = std::move(digest);
  }

 private:
  const char* const text_;
  mutable Mutex mutex_;
  std::string digest_ ABSL_GUARDED_BY(mutex_);  // empty until it was loaded
};

// ERRORS of Call and Run: kUnavailable when there is no answer within the timeout, or none is
// possible now (loading, read-only replica); kResourceExhausted when the server is out of memory;
// kInternal for any other complaint, and for replies that are none. THREADS: any; each call has a
// connection of its own while it runs.
class RedisClient {
 public:
  // Connects at the first call. `timeout` is over all of a call: connecting, sending, replies.
  // Looking up a host's name is the one thing that keeps to the resolver's time instead.
  RedisClient(RedisAddress address, absl::Duration timeout);

  // For all that a call of the store asks of the server, from now on.
  absl::Duration Deadline() const { return clock_.Monotonic() + timeout_; }

  absl::StatusOr<RedisReply> Call(const std::vector<std::string_view>& words,
                                  absl::Duration deadline);
  absl::StatusOr<RedisReply> Run(RedisScript& script, const std::vector<std::string>& keys,
                                 const std::vector<std::string_view>& arguments,
                                 absl::Duration deadline);

 private:
  absl::StatusOr<std::unique_ptr<RedisConnection>> Take(absl::Duration deadline);
  // The call on it ended with `status`.
  void GiveBack(std::unique_ptr<RedisConnection> connection, const absl::Status& status,
                absl::Duration deadline);

  const RedisAddress address_;
  const absl::Duration timeout_;
  const RealClock clock_;
  Mutex mutex_;
  std::vector<std::unique_ptr<RedisConnection>> idle_ ABSL_GUARDED_BY(mutex_);
  // After a failure to connect, and after a call that was not answered in time, calls are refused
  // at once for a time that doubles: who has something else to do is not held up by each.
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_);
  absl::Duration not_before_ ABSL_GUARDED_BY(mutex_);  // Clock::Monotonic
  std::string last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gma

#endif  // GMA_SERVER_STORE_REDIS_CLIENT_H_
