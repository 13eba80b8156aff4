#include "server/store/redis_client.h"

#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace gma {
namespace {

constexpr size_t kMaxIdle = 8;
constexpr size_t kReadBytes = size_t{256} << 10;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
constexpr absl::Duration kLastBackoff = absl::Seconds(2);

absl::Status Unavailable(std::string_view what) {
  return absl::UnavailableError(
      absl::StrCat("redis: ", absl::string_view(what.data(), what.size())));
}

// What an error reply means, by its first word.
absl::Status ErrorOf(absl::string_view text) {
  const absl::string_view word = text.substr(0, text.find(' '));
  const std::string message = absl::StrCat("redis: ", text);
  if (word == "OOM") return absl::ResourceExhaustedError(message);
  for (const char* passing : {"LOADING", "READONLY", "MASTERDOWN", "BUSY", "MISCONF", "TRYAGAIN",
                              "CLUSTERDOWN", "NOREPLICAS"}) {
    if (word == passing) return absl::UnavailableError(message);
  }
  if (absl::StartsWith(text, "ERR max number of clients")) return absl::UnavailableError(message);
  return absl::InternalError(message);
}

}  // namespace

void RedisReplyDeleter::operator()(redisReply* reply) const { freeReplyObject(reply); }

RedisConnection::RedisConnection(redisContext* context, const Clock& clock)
    : context_(context), clock_(clock), buffer_(kReadBytes) {}

RedisConnection::~RedisConnection() { redisFree(context_); }

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Open(const RedisAddress& address,
                                                                       const Clock& clock,
                                                                       absl::Duration deadline) {
  redisContext* context = address.unix_path.empty()
                              ? redisConnectNonBlock(address.host.c_str(), address.port)
                              : redisConnectUnixNonBlock(address.unix_path.c_str());
  if (context == nullptr) return Unavailable("no memory for a connection");
  std::unique_ptr<RedisConnection> connection(new RedisConnection(context, clock));
  if (context->err != 0) return Unavailable(absl::StrCat("connect: ", context->errstr));
  GMA_RETURN_IF_ERROR(connection->Connected(deadline));
  if (!address.password.empty()) {
    GMA_RETURN_IF_ERROR(connection->Call({"AUTH", address.password}, deadline).status());
  }
  if (address.database != 0) {
    const std::string database = absl::StrCat(address.database);
    GMA_RETURN_IF_ERROR(connection->Call({"SELECT", database}, deadline).status());
  }
  return connection;
}

absl::Status RedisConnection::WaitFor(short events, absl::Duration deadline) const {
  while (true) {
    const absl::Duration left = deadline - clock_.Monotonic();
    if (left <= absl::ZeroDuration()) return Unavailable("no answer in time");
    pollfd waited = {context_->fd, events, 0};
    // Rounded up: a rest below a millisecond must not be polled for without waiting.
    const int ready = poll(&waited, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Unavailable(absl::StrCat("poll: ", strerror(errno)));
  }
}

absl::Status RedisConnection::Connected(absl::Duration deadline) const {
  GMA_RETURN_IF_ERROR(WaitFor(POLLOUT, deadline));
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(context_->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : Unavailable(absl::StrCat("connect: ", strerror(error)));
}

bool RedisConnection::usable() const {
  pollfd idle = {context_->fd, POLLIN, 0};
  return !broken_ && poll(&idle, 1, 0) == 0;
}

// Written here and not by hiredis: without a copy of the snapshot, and without SIGPIPE.
absl::Status RedisConnection::Send(absl::Span<const std::string_view> words,
                                   absl::Duration deadline) {
  std::vector<std::string> heads;
  heads.reserve(words.size());
  for (const std::string_view word : words) {
    const std::string before = heads.empty() ? absl::StrCat("*", words.size(), "\r\n") : "\r\n";
    heads.push_back(absl::StrCat(before, "$", word.size(), "\r\n"));
  }
  std::vector<iovec> pieces;
  const auto add = [&pieces](std::string_view text) {
    if (!text.empty()) pieces.push_back({const_cast<char*>(text.data()), text.size()});
  };
  for (size_t i = 0; i < words.size(); ++i) {
    add(heads[i]);
    add(words[i]);
  }
  add("\r\n");
  msghdr message = {};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  while (message.msg_iovlen > 0) {
    const ssize_t result = sendmsg(context_->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Unavailable(absl::StrCat("send: ", strerror(errno)));
      GMA_RETURN_IF_ERROR(WaitFor(POLLOUT, deadline));
      continue;
    }
    size_t sent = static_cast<size_t>(result);
    while (message.msg_iovlen > 0 && sent >= message.msg_iov->iov_len) {
      sent -= message.msg_iov->iov_len;
      ++message.msg_iov;
      --message.msg_iovlen;
    }
    if (message.msg_iovlen > 0) {
      message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + sent;
      message.msg_iov->iov_len -= sent;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RedisReply> RedisConnection::Receive(absl::Duration deadline) {
  while (true) {
    void* reply = nullptr;
    if (redisGetReplyFromReader(context_, &reply) != REDIS_OK) {
      return absl::InternalError(absl::StrCat("redis: unreadable reply: ", context_->errstr));
    }
    if (reply != nullptr) return RedisReply(static_cast<redisReply*>(reply));
    GMA_RETURN_IF_ERROR(WaitFor(POLLIN, deadline));
    // Read here and not by hiredis, whose pieces of 16 KiB are small for a snapshot.
    const ssize_t got = recv(context_->fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (got == 0) return Unavailable("receive: the server closed the connection");
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return Unavailable(absl::StrCat("receive: ", strerror(errno)));
    }
    if (redisReaderFeed(context_->reader, buffer_.data(), static_cast<size_t>(got)) != REDIS_OK) {
      return absl::InternalError(absl::StrCat("redis: ", context_->reader->errstr));
    }
  }
}

absl::StatusOr<RedisReply> RedisConnection::Call(absl::Span<const std::string_view> words,
                                                 absl::Duration deadline) {
  broken_ = true;  // until the reply is here: a later call must not take it for its own
  GMA_RETURN_IF_ERROR(Send(words, deadline));
  GMA_ASSIGN_OR_RETURN(RedisReply reply, Receive(deadline));
  broken_ = false;
  if (reply->type == REDIS_REPLY_ERROR) return ErrorOf(absl::string_view(reply->str, reply->len));
  return reply;
}

RedisClient::RedisClient(RedisAddress address, absl::Duration timeout)
    : address_(std::move(address)),
      timeout_(timeout),
      backoff_(kFirstBackoff),
      not_before_(-absl::InfiniteDuration()) {}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisClient::Take(absl::Duration deadline) {
  {
    MutexLock lock(&mutex_);
    while (!idle_.empty()) {
      std::unique_ptr<RedisConnection> connection = std::move(idle_.back());
      idle_.pop_back();
      if (connection->usable()) return connection;
    }
    if (clock_.Monotonic() < not_before_) return absl::UnavailableError(last_failure_);
  }
  auto connection = RedisConnection::Open(address_, clock_, deadline);
  MutexLock lock(&mutex_);
  if (!connection.ok()) {
    not_before_ = clock_.Monotonic() + backoff_;
    backoff_ = std::min(2 * backoff_, kLastBackoff);
    last_failure_ = std::string(connection.status().message());
  }
  return connection;
}

void RedisClient::GiveBack(std::unique_ptr<RedisConnection> connection, const absl::Status& status,
                           absl::Duration deadline) {
  MutexLock lock(&mutex_);
  const absl::Duration now = clock_.Monotonic();
  if (status.code() == absl::StatusCode::kUnavailable && now >= deadline) {
    // A server that hangs is still connected to, so this is all that tells.
    backoff_ = std::clamp(2 * backoff_, timeout_, std::max(timeout_, kLastBackoff));
    not_before_ = now + backoff_;
    last_failure_ = std::string(status.message());
    idle_.clear();
    return;
  }
  if (status.code() != absl::StatusCode::kUnavailable) backoff_ = kFirstBackoff;
  if (connection->usable() && idle_.size() < kMaxIdle) idle_.push_back(std::move(connection));
}

absl::StatusOr<RedisReply> RedisClient::Call(const std::vector<std::string_view>& words,
                                             absl::Duration deadline) {
  GMA_ASSIGN_OR_RETURN(std::unique_ptr<RedisConnection> connection, Take(deadline));
  absl::StatusOr<RedisReply> reply = connection->Call(words, deadline);
  GiveBack(std::move(connection), reply.status(), deadline);
  return reply;
}

absl::StatusOr<RedisReply> RedisClient::Run(RedisScript& script,
                                            const std::vector<std::string>& keys,
                                            const std::vector<std::string_view>& arguments,
                                            absl::Duration deadline) {
  GMA_ASSIGN_OR_RETURN(std::unique_ptr<RedisConnection> connection, Take(deadline));
  const std::string key_count = absl::StrCat(keys.size());
  absl::StatusOr<RedisReply> reply;
  // A server that restarted has forgotten the script: it is loaded and run once more.
  for (int attempt = 0; attempt < 2; ++attempt) {
    std::string digest = script.digest();
    if (digest.empty()) {
      reply = connection->Call({"SCRIPT", "LOAD", script.text()}, deadline);
      if (!reply.ok()) break;
      if ((*reply)->type != REDIS_REPLY_STRING) {
        return absl::InternalError("redis: SCRIPT LOAD was not answered by a digest");
      }
      digest.assign((*reply)->str, (*reply)->len);
      script.set_digest(digest);
    }
    std::vector<std::string_view> words = {"EVALSHA", digest, key_count};
    words.insert(words.end(), keys.begin(), keys.end());
    words.insert(words.end(), arguments.begin(), arguments.end());
    reply = connection->Call(words, deadline);
    if (reply.ok() || !absl::StrContains(reply.status().message(), "NOSCRIPT")) break;
    script.set_digest("");
  }
  GiveBack(std::move(connection), reply.status(), deadline);
  return reply;
}

}  // namespace gma
