// Sealed sessions in Redis 7, for several servers at once. The keys of a session:
//   gma:{<owner>}:<id>          hash: epoch, ttl and saved_at (microseconds), sizes, and which
//                               snapshot is the present one
//   gma:{<owner>}:<id>:<name>   a sealed snapshot, never written twice
//   gma:{<owner>}:<id>:journal  list of the sealed records since
//   gma:{<owner>}:index         sorted set of the owner's ids
// Each call is decided by one script, so it happens as a whole or not at all, and the epoch is
// compared where it is written. The hash outlives the content by a week, as the tombstone of an
// expired session.
// Redis must not evict (maxmemory-policy noeviction): content that is missing is kDataLoss.
#ifndef GMA_SERVER_STORE_REDIS_STORE_H_
#define GMA_SERVER_STORE_REDIS_STORE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "server/store/redis_client.h"
#include "server/store/session_store.h"

namespace gma {

struct RedisStoreOptions {
  std::string address;  // redis://[:password@]host[:port][/database] or unix:/path
  absl::Duration timeout = absl::Seconds(1);  // of a whole call
};

// Beside the contract:
// * Durable is what Redis has answered: how much of that a crash of Redis takes is set there
//   (appendfsync), so `sync` and Sync do nothing more.
// * A call that ends in kUnavailable may have been done: who repeats an Append may find the record
//   twice; who cannot bear that writes a snapshot instead.
// * A removed session's epoch is remembered for a day: a server that slept through the removal
//   cannot bring the session back.
// THREADS: any.
class RedisStore final : public SessionStore {
 public:
  // Does not connect: a Redis that is down is kUnavailable call by call, and found again.
  // ERRORS: kInvalidArgument for the address. `clock` outlives the store.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Create(const RedisStoreOptions& options,
                                                            const Clock& clock);

  absl::StatusOr<StoredSession> Claim(const StoreKey& key) override;
  bool shared() const override { return true; }
  absl::Status Verify(const StoreKey& key, uint64_t epoch) override;
  absl::Status PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                           std::string_view snapshot) override;
  absl::Status Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                      std::string_view record, bool sync) override;
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Remove(const StoreKey& key, uint64_t epoch) override;
  absl::StatusOr<std::vector<StoredEntry>> List(std::string_view owner, std::string_view after,
                                                int limit) override;

 private:
  RedisStore(RedisAddress address, absl::Duration timeout, const Clock& clock);
  absl::Status Write(RedisScript& script, const StoreKey& key, uint64_t epoch,
                     const std::vector<std::string_view>& arguments, absl::Duration deadline);

  const Clock& clock_;
  RedisClient client_;
  RedisScript claim_, put_, append_, remove_, list_;
};

}  // namespace gma

#endif  // GMA_SERVER_STORE_REDIS_STORE_H_
