// The store of the simulation: what survives its processes, and how each of them sees it. It can be
// away, lose its answers, be full, and tell old states.
#ifndef GMA_TESTS_SIM_SIM_STORE_H_
#define GMA_TESTS_SIM_SIM_STORE_H_

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "server/session/session_id.h"
#include "server/store/session_store.h"

namespace gma::testing {

enum class StoreMood {
  kWell,
  kAway,          // does nothing
  kLosesAnswers,  // does what it is told and does not say so
  kFull,          // takes nothing more
};

struct SimStoreData {
  struct Stored {
    uint64_t epoch = 0;
    absl::Duration ttl;
    std::string snapshot;
    std::vector<std::string> journal;
  };
  std::map<std::string, Stored> sessions;  // by id
  StoreMood mood = StoreMood::kWell;
  int64_t lies_percent = 0;  // of claims that are told the last snapshot without what came since

  // Servers tell nothing that is not written: no write that fails excuses anything.
  bool always = false;
  // Otherwise, what a server was told not to be in the store may be missing in what is claimed, by
  // id: 1 when a write has failed and no snapshot was written since; 2 when a session was claimed
  // like that, or had been before.
  std::map<std::string, int> risks;
  std::map<std::string, int64_t> failed_writes;  // by id; what fails cannot be gone on with
  std::map<std::string, bool> lied;              // by id
  int64_t claims = 0, writes = 0, failures = 0, fenced = 0, lies = 0;

  // A copy has what its source was told.
  void Fork(const SessionId& from, const SessionId& to);
  bool Tainted(const SessionId& id) const;
  int64_t FailedWrites(const SessionId& id) const;
  bool Lied(const SessionId& id) const { return lied.contains(id.Hex()); }
};

// Of one process. THREADS: one.
class SimStore final : public SessionStore {
 public:
  // Both outlive the store.
  SimStore(SimStoreData& data, std::mt19937_64& random) : data_(data), random_(random) {}

  // The process was killed: nothing that it still does arrives.
  void Die() { dead_ = true; }

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
  // What a call comes to before it does anything.
  absl::Status Begin(bool takes_space) const;
  // Makes a write by `change` under `epoch`, as far as the mood lets it.
  template <typename Change>
  absl::Status Write(const char* what, const StoreKey& key, uint64_t epoch, bool takes_space,
                     Change change);

  SimStoreData& data_;
  std::mt19937_64& random_;
  bool dead_ = false;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SIM_SIM_STORE_H_
