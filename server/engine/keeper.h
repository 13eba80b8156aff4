// The engine's way to the store: seals and opens sessions, and waits for the store, on threads of
// its own, and answers with work for the engine's thread.
//
// Writes are done one after the other, in the order in which they were asked for; reads pass them,
// but for those of a session that has writes before it. After a write that failed, a session's
// journal takes nothing until a snapshot of it was written: so it never has a hole.
#ifndef GMA_SERVER_ENGINE_KEEPER_H_
#define GMA_SERVER_ENGINE_KEEPER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/metrics/metrics.h"
#include "server/session/journal_record.h"
#include "server/session/session_image.h"
#include "server/session/snapshot.h"
#include "server/store/session_store.h"

namespace gma {

struct KeeperOptions {
  SnapshotScope scope;
  RowEncoding encoding = RowEncoding::kFloat32;     // of rows, as they come and in the store
  size_t max_queued_bytes = 64 << 20;               // of writes that wait; one is always taken
  absl::Duration sync_interval = absl::Seconds(1);  // of records that were not synced at once
  bool threads = true;  // false: whoever calls StepWriter and StepReader does the work
};

// A session in the store: the caller's own name of the owner, not yet hashed.
struct StoredName {
  std::string owner;
  SessionId id;
};

struct SaveJob {
  StoredName name;
  uint64_t epoch;
  absl::Duration ttl;                   // that is left of it
  SessionImage image;                   // without its row
  std::shared_ptr<const RowBytes> row;  // encoded
};

struct AppendJob {
  StoredName name;
  uint64_t epoch;
  absl::Duration ttl;
  int64_t number;  // of the record
  JournalRecord record;
  bool sync;
};

struct Written {
  int64_t bytes;  // of the snapshot or the record
  absl::Duration took;
};

// What a claim finds.
struct ClaimedSession {
  uint64_t epoch;
  absl::Duration ttl;                 // as the store knows it; that of the image counts
  std::optional<SessionImage> image;  // none: all there is are records
  std::vector<JournalRecord> records;
  int64_t journaled;  // number of the next record
  int64_t bytes;
};

// THREADS: calls from the engine's thread, but for those of the work itself.
class Keeper {
 public:
  template <typename T>
  using Done = absl::AnyInvocable<void(absl::StatusOr<T>)>;
  // Brings work to the engine's thread, which may be gone: it is dropped then.
  using Post = std::function<void(absl::AnyInvocable<void()>)>;

  // REQUIRES: clock and metrics outlive the keeper.
  Keeper(KeeperOptions options, std::unique_ptr<SessionStore> store, const Clock& clock,
         Metrics& metrics);
  ~Keeper();

  // To be called once, before all that follows. Every `done` is run by `post`.
  void Start(Post post);

  // Whether a write of so many bytes may be asked for now.
  bool HasRoom(size_t bytes) const;
  // ERRORS of all: those of SessionStore. A session that was opened under another epoch since is
  // kAborted; one whose stored form cannot be opened is kDataLoss or kFailedPrecondition.
  void Save(SaveJob job, Done<Written> done);
  void Append(AppendJob job, Done<Written> done);
  // One that fails is tried again every second, until something else is written of the session.
  void Remove(StoredName name, uint64_t epoch);
  void Claim(StoredName name, Done<ClaimedSession> done);
  // Whether other servers can have claimed sessions of this one, and whether one has done so.
  bool shared() const { return store_->shared(); }
  void Verify(StoredName name, uint64_t epoch, absl::AnyInvocable<void(const absl::Status&)> done);
  // As SessionStore::List.
  void List(std::string owner, std::string after, int32_t limit,
            Done<std::vector<StoredEntry>> done);

  // When the oldest write that is not done was asked for; InfiniteDuration: there is none.
  absl::Duration OldestWrite() const;
  // Waits until every write was done, or `timeout` is over; returns whether they were.
  bool Flush(absl::Duration timeout);

  // Does the next piece of work, if there is one. REQUIRES: options.threads is false.
  bool StepWriter();
  bool StepReader();

 private:
  using Key = std::pair<std::string, std::string>;  // as StoreKey
  struct Job {
    Key key;
    size_t bytes;
    absl::Duration asked_at;
    absl::AnyInvocable<void()> run;
  };

  static StoreKey NameOf(const StoredName& name);
  void Write(const StoredName& name, size_t bytes, absl::AnyInvocable<void()> run);
  void Read(const StoredName& name, absl::AnyInvocable<void()> run);
  // Takes the next write or read and does it; false: there is none.
  bool Step(bool write);
  void RunWriter();
  void RunReader();
  void Maintain();  // what is due of syncing and expiring
  absl::Duration NextMaintenance() const;

  void DoRemove(const StoreKey& key, uint64_t epoch);
  absl::StatusOr<Written> DoSave(SaveJob job);
  absl::StatusOr<Written> DoAppend(const AppendJob& job);
  absl::StatusOr<ClaimedSession> DoClaim(const StoredName& name);
  absl::Status Count(StoreCallLabel call, const absl::Status& status);

  const KeeperOptions options_;
  const std::unique_ptr<SessionStore> store_;
  const Clock& clock_;
  Metrics& metrics_;
  Post post_;

  mutable Mutex mutex_;
  ConditionVariable work_, done_;
  std::deque<Job> writes_ ABSL_GUARDED_BY(mutex_), reads_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Key, int> in_work_ ABSL_GUARDED_BY(mutex_);  // jobs by session
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t writing_ ABSL_GUARDED_BY(mutex_) = 0;  // writes that wait or are being done
  absl::Duration oldest_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();  // being done
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Journals that take nothing, and what records for them are answered.
  absl::flat_hash_map<Key, absl::Status> broken_ ABSL_GUARDED_BY(mutex_);
  absl::Status Break(const StoreKey& key, const absl::Status& status);

  // Of the writer alone.
  bool unsynced_ = false;
  absl::Duration next_sync_, next_expiry_, next_removal_ = absl::InfiniteDuration();
  std::map<Key, uint64_t> removals_;  // that failed: epochs
  std::thread writer_, reader_;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_KEEPER_H_
