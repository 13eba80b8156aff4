#include "server/store/redis_store.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "server/store/redis_scripts.h"
#include "server/store/store_key.h"

namespace gma {
namespace {

// Times are sums of doubles in the scripts, exact below 2^53 microseconds.
constexpr absl::Duration kMaxTtl = absl::Hours(24 * 365 * 100);
// A removed session's epoch is remembered for so long.
constexpr absl::Duration kRemovedTime = absl::Hours(24);
// Content outlives the moment at which any server calls it expired: twice kClockSkew.
constexpr absl::Duration kContentSlack = absl::Seconds(120);

// What a snapshot has to be made the present one.
constexpr absl::Duration kStagedTime = absl::Seconds(60);

std::string Micros(absl::Duration time) { return absl::StrCat(absl::ToInt64Microseconds(time)); }
std::string Micros(absl::Time time) { return absl::StrCat(absl::ToUnixMicros(time)); }
std::string Millis(absl::Duration time) { return absl::StrCat(absl::ToInt64Milliseconds(time)); }

std::string Prefix(std::string_view owner) {
  return absl::StrCat("gma:{", absl::string_view(owner.data(), owner.size()), "}:");
}
std::vector<std::string> KeysOf(const StoreKey& key) {
  const std::string prefix = Prefix(key.owner), hash = prefix + key.id;
  return {hash, hash + ":journal", prefix + "index"};
}

// A name that no other snapshot has, on any server.
std::string NewName() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return absl::StrCat("snapshot.", absl::Hex(random(), absl::kZeroPad16),
                      absl::Hex(absl::GetCurrentTimeNanos(), absl::kZeroPad16));
}

absl::Status Unexpected() {
  return absl::InternalError("redis: the script's answer is not what it should be");
}

// The answer as an array of strings that begins with a word; views into the reply.
absl::StatusOr<std::vector<std::string_view>> Words(const redisReply& reply) {
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements == 0) return Unexpected();
  std::vector<std::string_view> words;
  words.reserve(reply.elements);
  for (size_t i = 0; i < reply.elements; ++i) {
    const redisReply* element = reply.element[i];
    if (element == nullptr || element->type != REDIS_REPLY_STRING) return Unexpected();
    words.emplace_back(element->str, static_cast<size_t>(element->len));
  }
  return words;
}

absl::StatusOr<int64_t> Number(std::string_view word) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(absl::string_view(word.data(), word.size()), &value) || value < 0) {
    return Unexpected();
  }
  return value;
}

// OK for an answer that begins with "ok", else what it says.
absl::Status Verdict(const StoreKey& key, uint64_t epoch,
                     const std::vector<std::string_view>& words) {
  if (words[0] == "ok") return absl::OkStatus();
  if (words[0] == "absent") return NoSessionError(key);
  if (words[0] == "expired" && words.size() == 3) {
    GMA_ASSIGN_OR_RETURN(const int64_t saved_at, Number(words[1]));
    GMA_ASSIGN_OR_RETURN(const int64_t ttl, Number(words[2]));
    return ExpiredError(key, absl::FromUnixMicros(saved_at), absl::Microseconds(ttl));
  }
  if (words[0] == "fenced" && words.size() == 2) {
    GMA_ASSIGN_OR_RETURN(const int64_t current, Number(words[1]));
    return FencedError(key, epoch, static_cast<uint64_t>(current));
  }
  if (words[0] == "damaged") {
    return absl::DataLossError(absl::StrCat(
        "session ", key.id, ": part of it is missing in redis (maxmemory-policy noeviction?)"));
  }
  return Unexpected();
}

}  // namespace

RedisStore::RedisStore(RedisAddress address, absl::Duration timeout, const Clock& clock)
    : clock_(clock),
      client_(std::move(address), timeout),
      claim_(kClaimScript),
      put_(kPutScript),
      append_(kAppendScript),
      remove_(kRemoveScript),
      list_(kListScript) {}

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Create(const RedisStoreOptions& options,
                                                               const Clock& clock) {
  GMA_ASSIGN_OR_RETURN(RedisAddress address, ParseRedisAddress(options.address));
  return std::unique_ptr<RedisStore>(new RedisStore(std::move(address), options.timeout, clock));
}

absl::StatusOr<StoredSession> RedisStore::Claim(const StoreKey& key) {
  GMA_RETURN_IF_ERROR(CheckStoreKey(key));
  const absl::Duration deadline = client_.Deadline();
  const std::vector<std::string> keys = KeysOf(key);
  GMA_ASSIGN_OR_RETURN(const RedisReply reply,
                       client_.Run(claim_, keys,
                                   {Micros(clock_.Now()), Micros(kClockSkew),
                                    Millis(kTombstoneTime), Millis(kContentSlack), key.id},
                                   deadline));
  GMA_ASSIGN_OR_RETURN(const std::vector<std::string_view> words, Words(*reply));
  GMA_RETURN_IF_ERROR(Verdict(key, 0, words));
  if (words.size() < 4) return Unexpected();
  GMA_ASSIGN_OR_RETURN(const int64_t epoch, Number(words[1]));
  GMA_ASSIGN_OR_RETURN(const int64_t ttl, Number(words[3]));
  StoredSession session;
  session.epoch = static_cast<uint64_t>(epoch);
  session.ttl = absl::Microseconds(ttl);
  session.journal.assign(words.begin() + 4, words.end());
  if (words[2].empty()) return session;

  // Nobody writes under an older epoch any more, and under a newer one the name would be another.
  const std::string blob = absl::StrCat(keys[0], ":", std::string(words[2]));
  GMA_ASSIGN_OR_RETURN(const RedisReply snapshot, client_.Call({"GET", blob}, deadline));
  if (snapshot->type == REDIS_REPLY_NIL) {
    return absl::UnavailableError(
        absl::StrCat("redis: session ", key.id, " was claimed and written by another server"));
  }
  if (snapshot->type != REDIS_REPLY_STRING) return Unexpected();
  session.snapshot.assign(snapshot->str, static_cast<size_t>(snapshot->len));
  return session;
}

absl::Status RedisStore::Verify(const StoreKey& key, uint64_t epoch) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  const std::string hash = KeysOf(key)[0];
  GMA_ASSIGN_OR_RETURN(const RedisReply reply,
                       client_.Call({"HMGET", hash, "epoch", "gone"}, client_.Deadline()));
  if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2) return Unexpected();
  const redisReply &present = *reply->element[0], &gone = *reply->element[1];
  if (present.type != REDIS_REPLY_STRING) return NoSessionError(key);
  GMA_ASSIGN_OR_RETURN(const int64_t current, Number({present.str, present.len}));
  if (static_cast<uint64_t>(current) > epoch) {
    return FencedError(key, epoch, static_cast<uint64_t>(current));
  }
  return gone.type == REDIS_REPLY_STRING ? NoSessionError(key) : absl::OkStatus();
}

absl::Status RedisStore::Write(RedisScript& script, const StoreKey& key, uint64_t epoch,
                               const std::vector<std::string_view>& arguments,
                               absl::Duration deadline) {
  GMA_ASSIGN_OR_RETURN(const RedisReply reply,
                       client_.Run(script, KeysOf(key), arguments, deadline));
  GMA_ASSIGN_OR_RETURN(const std::vector<std::string_view> words, Words(*reply));
  return Verdict(key, epoch, words);
}

absl::Status RedisStore::PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                                     std::string_view snapshot) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  const absl::Duration deadline = client_.Deadline();
  ttl = std::min(ttl, kMaxTtl);
  const std::string name = NewName();
  const std::string blob = absl::StrCat(KeysOf(key)[0], ":", name);
  GMA_RETURN_IF_ERROR(
      client_.Call({"SET", blob, snapshot, "PX", Millis(kStagedTime)}, deadline).status());
  return Write(
      put_, key, epoch,
      {absl::StrCat(epoch), Micros(clock_.Now()), Micros(ttl), key.id, Millis(ttl + kTombstoneTime),
       Millis(ttl + kContentSlack), name, absl::StrCat(snapshot.size())},
      deadline);
}

absl::Status RedisStore::Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                                std::string_view record, bool /*sync*/) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  ttl = std::min(ttl, kMaxTtl);
  return Write(append_, key, epoch,
               {absl::StrCat(epoch), Micros(clock_.Now()), Micros(ttl), key.id,
                Millis(ttl + kTombstoneTime), Millis(ttl + kContentSlack), record},
               client_.Deadline());
}

absl::Status RedisStore::Remove(const StoreKey& key, uint64_t epoch) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  return Write(remove_, key, epoch, {absl::StrCat(epoch), key.id, Millis(kRemovedTime)},
               client_.Deadline());
}

absl::StatusOr<std::vector<StoredEntry>> RedisStore::List(std::string_view owner,
                                                          std::string_view after, int limit) {
  GMA_RETURN_IF_ERROR(CheckStoreListing(owner, after));
  GMA_ASSIGN_OR_RETURN(const RedisReply reply,
                       client_.Run(list_, {Prefix(owner) + "index"},
                                   {after, absl::StrCat(limit), Micros(clock_.Now()),
                                    Micros(kClockSkew), Prefix(owner)},
                                   client_.Deadline()));
  GMA_ASSIGN_OR_RETURN(const std::vector<std::string_view> words, Words(*reply));
  if (words[0] != "ok" || words.size() % 4 != 1) return Unexpected();
  std::vector<StoredEntry> sessions;
  for (size_t i = 1; i < words.size(); i += 4) {
    GMA_ASSIGN_OR_RETURN(const int64_t saved_at, Number(words[i + 1]));
    GMA_ASSIGN_OR_RETURN(const int64_t ttl, Number(words[i + 2]));
    GMA_ASSIGN_OR_RETURN(const int64_t bytes, Number(words[i + 3]));
    sessions.push_back(
        {std::string(words[i]), absl::FromUnixMicros(saved_at), absl::Microseconds(ttl), bytes});
  }
  return sessions;
}

}  // namespace gma
