// The journals of a file store: open files, appends, syncs.
#include <fcntl.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/file_store.h"
#include "server/store/file_store_held.h"
#include "server/store/store_key.h"

namespace gma {
namespace {

constexpr size_t kMaxOpenJournals = 128;

}  // namespace

absl::Status FileStore::Append(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                               std::string_view record, bool sync) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  {
    Held held(*this, key);
    const Entry& entry = held.entry;
    if (epoch < entry.epoch) return FencedError(key, epoch, entry.epoch);
    if (entry.kind == Kind::kTombstone) return ExpiredError(key, held.saved_at(), held.ttl());
    if (entry.kind == Kind::kDamaged) {
      return absl::DataLossError(
          absl::StrCat("session ", key.id, ": what the store holds of it is damaged"));
    }
    if (entry.journal_broken) {
      return absl::InternalError(
          absl::StrCat(JournalPath(key, entry.generation),
                       ": takes no record after an earlier error, until the next snapshot"));
    }
    GMA_RETURN_IF_ERROR(
        ReserveBytes(held, static_cast<int64_t>(kFrameHeaderBytes + record.size())));
    const absl::Time now = clock_.Now();
    const JournalFrame frame = {false, epoch, ttl, now, static_cast<uint64_t>(entry.synced_bytes),
                                record};
    GMA_RETURN_IF_ERROR(AppendFrame(held, frame, sync));
    held.Touch(epoch, ttl, now);
  }
  LimitOpenJournals();
  return absl::OkStatus();
}

// Leaves the journal as it was when it fails, and broken when it cannot tell what the disk holds.
absl::Status FileStore::AppendFrame(Held& held, const JournalFrame& frame, bool sync) {
  GMA_RETURN_IF_ERROR(MakeOwnerDirectory(held.name));
  GMA_ASSIGN_OR_RETURN(Journal journal, TakeJournal(held));
  Entry& entry = held.entry;
  const std::string path = JournalPath(held.name, entry.generation);
  const std::string bytes = EncodeFrame(frame);
  const int64_t old_bytes = entry.journal_bytes;
  absl::Status done = WriteAll(journal.fd.get(), bytes, path);
  if (done.ok()) {
    entry.journal_bytes += static_cast<int64_t>(bytes.size());
    MutexLock lock(&mutex_);
    dirty_.insert(held.key);
  }
  if (done.ok() && sync) done = SyncJournal(held, journal);
  if (!done.ok()) {
    entry.journal_bytes = old_bytes;
    if (!TruncateFile(journal.fd.get(), static_cast<size_t>(old_bytes), path).ok()) {
      entry.journal_broken = true;
    }
    if (entry.kind == Kind::kAbsent) {
      DropJournal(held, entry.generation);
      entry = Entry{};
      return done;
    }
  }
  ReturnJournal(held, std::move(journal));
  return done;
}

absl::StatusOr<FileStore::Journal> FileStore::TakeJournal(const Held& held) {
  {
    MutexLock lock(&mutex_);
    if (auto found = journals_.find(held.key); found != journals_.end()) {
      Journal journal = std::move(found->second);
      journals_.erase(found);
      return journal;
    }
  }
  // What a first record finds in the file is of a session removed before.
  const bool first = held.entry.journal_bytes == 0;
  GMA_ASSIGN_OR_RETURN(OwnedFd fd,
                       OpenDiskFile(JournalPath(held.name, held.entry.generation),
                                    O_WRONLY | O_APPEND | O_CREAT | (first ? O_TRUNC : 0)));
  return Journal{std::move(fd), false, 0};
}

void FileStore::ReturnJournal(const Held& held, Journal journal) {
  MutexLock lock(&mutex_);
  journal.used = ++uses_;
  journals_[held.key] = std::move(journal);
}

// After a failed sync the kernel may have dropped the pages it could not write, so a later one that
// succeeds says nothing: the journal is broken.
absl::Status FileStore::SyncJournal(Held& held, Journal& journal) {
  {
    MutexLock lock(&mutex_);
    dirty_.erase(held.key);
  }
  absl::Status synced = SyncFile(journal.fd.get(), JournalPath(held.name, held.entry.generation));
  if (synced.ok() && !journal.named_durably) synced = SyncDirectory(DirectoryOf(held.name));
  journal.named_durably = synced.ok();
  if (synced.ok()) {
    held.entry.synced_bytes = held.entry.journal_bytes;
  } else {
    held.entry.journal_broken = true;
  }
  return synced;
}

absl::Status FileStore::SyncSession(const Key& key, bool close) {
  Held held(*this, NameOf(key));
  bool dirty = false;
  {
    MutexLock lock(&mutex_);
    dirty = dirty_.contains(key);
    if (!dirty && !(close && journals_.contains(key))) return absl::OkStatus();
  }
  GMA_ASSIGN_OR_RETURN(Journal journal, TakeJournal(held));
  absl::Status synced = dirty ? SyncJournal(held, journal) : absl::OkStatus();
  if (!close) ReturnJournal(held, std::move(journal));
  return synced;
}

absl::Status FileStore::Sync() {
  std::vector<Key> keys;
  {
    MutexLock lock(&mutex_);
    keys.assign(dirty_.begin(), dirty_.end());
  }
  absl::Status result;
  for (const Key& key : keys) result.Update(SyncSession(key, false));
  return result;
}

void FileStore::LimitOpenJournals() {
  while (true) {
    Key oldest;
    {
      MutexLock lock(&mutex_);
      if (journals_.size() <= kMaxOpenJournals) return;
      oldest =
          std::min_element(journals_.begin(), journals_.end(), [](const auto& a, const auto& b) {
            return a.second.used < b.second.used;
          })->first;
    }
    if (absl::Status closed = SyncSession(oldest, true); !closed.ok()) {
      GMA_LOG(kError, "store_sync_failed", {{"reason", std::string(closed.message())}});
    }
  }
}

void FileStore::DropJournal(const Held& held, uint64_t generation) {
  {
    MutexLock lock(&mutex_);
    journals_.erase(held.key);
    dirty_.erase(held.key);
  }
  // One that stays is of another generation than the snapshot, or of no session: the next start
  // removes it.
  if (absl::Status gone = UnlinkFile(JournalPath(held.name, generation)); !gone.ok()) {
    GMA_LOG(kWarning, "store_journal_left", {{"reason", std::string(gone.message())}});
  }
}

}  // namespace gma
