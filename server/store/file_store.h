// Sealed sessions as files, of one server at a time:
//   <directory>/<owner>/<id>.gma               header and sealed snapshot, or a tombstone
//   <directory>/<owner>/<id>.<generation>.log  journal since the snapshot of that generation
//   <directory>/<owner>/<id>.tmp               a snapshot being written; removed at start
// A snapshot is replaced by temporary file, fdatasync, rename and fsync of the directory, so a
// crash at any moment leaves the old one with its journal, or the new one.
#ifndef GMA_SERVER_STORE_FILE_STORE_H_
#define GMA_SERVER_STORE_FILE_STORE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/store/disk_file.h"
#include "server/store/session_store.h"
#include "server/store/store_format.h"

namespace gma {

struct FileStoreOptions {
  std::string directory;  // made when it is not there; its parent must be
  int64_t max_bytes = 0;  // of all files of sessions together; 0: no limit
};

// Beside the contract: a call that fails at the very last step, making the rename durable, leaves
// the new snapshot in place and appends refused until the next one. A journal that could not be
// written or synced as it should takes no further record before the next snapshot (kInternal).
// THREADS: any; calls for one session wait for each other, those for others do not.
class FileStore final : public SessionStore {
 public:
  // Reads what is there, removes what a crash left over and expires what is due. `clock` outlives
  // the store. ERRORS: kFailedPrecondition when another server holds the directory; kInternal when
  // it cannot be read.
  static absl::StatusOr<std::unique_ptr<FileStore>> Open(FileStoreOptions options,
                                                         const Clock& clock);

  absl::StatusOr<StoredSession> Claim(const StoreKey& key) override;
  absl::Status PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                           std::string_view snapshot) override;
  absl::Status Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                      std::string_view record, bool sync) override;
  absl::Status Sync() override;
  absl::Status Remove(const StoreKey& key, uint64_t epoch) override;
  absl::StatusOr<std::vector<StoredEntry>> List(std::string_view owner, std::string_view after,
                                                int limit) override;
  void Expire(absl::Time now) override;
  int64_t bytes() const override;

 private:
  enum class Kind : uint8_t { kAbsent, kLive, kTombstone, kDamaged };

  // The index holds one of these a session, about 130 bytes with its key.
  struct Entry {
    uint64_t epoch = 0;
    uint64_t generation = 0;
    int64_t saved_at = 0;  // nanoseconds since the epoch of Unix
    int64_t ttl = 0;       // nanoseconds
    int64_t snapshot_bytes = 0;
    int64_t journal_bytes = 0;
    int64_t synced_bytes = 0;  // of the journal
    Kind kind = Kind::kAbsent;
    bool journal_broken = false;  // takes no record in this generation
    bool held = false;            // a call is at work on it
  };
  using Key = std::array<uint8_t, 32>;  // owner, id

  struct Journal {
    OwnedFd fd;
    bool named_durably = false;
    uint64_t used = 0;  // order of use
  };

  class Held;  // one session, exclusively

  FileStore(FileStoreOptions options, const Clock& clock, OwnedFd directory);

  static Key IndexKey(const StoreKey& key);
  static StoreKey NameOf(const Key& key);
  std::string DirectoryOf(const StoreKey& key) const;
  std::string PathOf(const StoreKey& key, const char* suffix) const;
  std::string JournalPath(const StoreKey& key, uint64_t generation) const;

  // At start (file_store_open.cc).
  absl::Status ReadAll();
  absl::Status ReadOwner(const std::string& owner);
  void ReadSession(const StoreKey& key, bool has_snapshot,
                   const std::vector<uint64_t>& generations);
  void ReadSnapshotAtStart(const StoreKey& key, Entry& entry);
  void ReadJournalAtStart(const StoreKey& key, Entry& entry);

  absl::Status ReserveBytes(Held& held, int64_t bytes);
  absl::Status MakeOwnerDirectory(const StoreKey& key);
  absl::Status WriteTemporary(const StoreKey& key, const StoreHeader& header,
                              std::string_view snapshot);
  absl::StatusOr<StoredSession> Read(const StoreKey& key, const Entry& entry);
  absl::Status AppendFrame(Held& held, const JournalFrame& frame, bool sync);
  absl::StatusOr<Journal> TakeJournal(const Held& held);
  void ReturnJournal(const Held& held, Journal journal);
  absl::Status SyncJournal(Held& held, Journal& journal);
  absl::Status SyncSession(const Key& key, bool close);
  void LimitOpenJournals();
  void DropJournal(const Held& held, uint64_t generation);
  absl::Status Bury(Held& held);
  absl::Status Erase(Held& held);

  const FileStoreOptions options_;
  const Clock& clock_;
  const OwnedFd directory_;  // carries the lock

  mutable Mutex mutex_;
  ConditionVariable released_;
  absl::btree_map<Key, Entry> index_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<Key, Journal> journals_ ABSL_GUARDED_BY(mutex_);  // open ones
  absl::flat_hash_set<Key> dirty_ ABSL_GUARDED_BY(mutex_);              // journals not yet synced
  uint64_t uses_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;     // of the sessions in the index
  int64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;  // by calls at work
};

}  // namespace gma

#endif  // GMA_SERVER_STORE_FILE_STORE_H_
