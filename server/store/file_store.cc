#include "server/store/file_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/file_store_held.h"
#include "server/store/store_key.h"

namespace gma {

FileStore::FileStore(FileStoreOptions options, const Clock& clock, OwnedFd directory)
    : options_(std::move(options)), clock_(clock), directory_(std::move(directory)) {}

FileStore::Key FileStore::IndexKey(const StoreKey& key) {
  const std::string raw = absl::HexStringToBytes(key.owner + key.id);
  Key index;
  std::copy(raw.begin(), raw.end(), index.begin());
  return index;
}

StoreKey FileStore::NameOf(const Key& key) {
  const std::string hex = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(key.data()), key.size()));
  return {hex.substr(0, 32), hex.substr(32)};
}

std::string FileStore::DirectoryOf(const StoreKey& key) const {
  return absl::StrCat(options_.directory, "/", key.owner);
}

std::string FileStore::PathOf(const StoreKey& key, const char* suffix) const {
  return absl::StrCat(DirectoryOf(key), "/", key.id, suffix);
}

std::string FileStore::JournalPath(const StoreKey& key, uint64_t generation) const {
  return absl::StrCat(DirectoryOf(key), "/", key.id, ".", generation, ".log");
}

absl::StatusOr<StoredSession> FileStore::Claim(const StoreKey& key) {
  GMA_RETURN_IF_ERROR(CheckStoreKey(key));
  Held held(*this, key);
  if (held.entry.kind == Kind::kAbsent) return NoSessionError(key);
  if (held.entry.kind == Kind::kDamaged) {
    return absl::DataLossError(absl::StrCat("session ", key.id,
                                            ": what the store holds of it is damaged; the log of "
                                            "the server's start says where"));
  }
  const absl::Time now = clock_.Now();
  if (held.entry.kind == Kind::kLive && HasExpired(held.saved_at(), held.ttl(), now)) {
    if (absl::Status buried = Bury(held); !buried.ok()) {
      GMA_LOG(kError, "store_expire_failed", {{"reason", std::string(buried.message())}});
    }
    return ExpiredError(key, held.saved_at(), held.ttl());
  }
  if (held.entry.kind == Kind::kTombstone) return ExpiredError(key, held.saved_at(), held.ttl());

  GMA_ASSIGN_OR_RETURN(StoredSession session, Read(key, held.entry));
  session.epoch = held.entry.epoch + 1;
  session.ttl = held.ttl();
  // The lock on the directory keeps other servers out and the index keeps the epoch, so a disk that
  // takes no more writes need not keep sessions asleep.
  if (!held.entry.journal_broken) {
    const JournalFrame frame = {
        true, session.epoch, held.ttl(), now, static_cast<uint64_t>(held.entry.synced_bytes), ""};
    if (absl::Status noted = AppendFrame(held, frame, true); !noted.ok()) {
      GMA_LOG(kWarning, "store_claim_not_noted",
              {{"session", key.id}, {"reason", std::string(noted.message())}});
    }
  }
  held.Touch(session.epoch, held.ttl(), now);
  return session;
}

absl::StatusOr<StoredSession> FileStore::Read(const StoreKey& key, const Entry& entry) {
  StoredSession session;
  if (entry.snapshot_bytes > 0) {
    const std::string path = PathOf(key, ".gma");
    GMA_ASSIGN_OR_RETURN(const std::string head, ReadDiskFile(path, 0, kStoreHeaderBytes));
    const absl::StatusOr<StoreHeader> header = DecodeStoreHeader(head);
    if (!header.ok()) {
      return absl::DataLossError(absl::StrCat(path, ": ", header.status().message()));
    }
    GMA_ASSIGN_OR_RETURN(session.snapshot, ReadDiskFile(path, kStoreHeaderBytes));
    if (session.snapshot.size() != header->blob_bytes) {
      return absl::DataLossError(absl::StrCat(path, ": ", session.snapshot.size(),
                                              " bytes behind the header, which says ",
                                              header->blob_bytes));
    }
  }
  if (entry.journal_bytes > 0) {
    const std::string path = JournalPath(key, entry.generation);
    const size_t size = static_cast<size_t>(entry.journal_bytes);
    GMA_ASSIGN_OR_RETURN(const std::string bytes, ReadDiskFile(path, 0, size));
    const absl::StatusOr<JournalContents> journal = DecodeJournal(bytes);
    if (!journal.ok() || journal->whole_bytes != size) {
      return absl::DataLossError(absl::StrCat(path, ": damaged since it was written"));
    }
    for (const JournalFrame& frame : journal->frames) {
      if (!frame.claim) session.journal.emplace_back(frame.record);
    }
  }
  return session;
}

absl::Status FileStore::ReserveBytes(Held& held, int64_t bytes) {
  MutexLock lock(&mutex_);
  const int64_t total = bytes_ + reserved_ + bytes;
  if (bytes > 0 && options_.max_bytes > 0 && total > options_.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("sessions on disk would take ", total,
                                                     " bytes, the limit is ", options_.max_bytes,
                                                     " (--park_disk_bytes)"));
  }
  held.reserved = std::max<int64_t>(bytes, 0);
  reserved_ += held.reserved;
  return absl::OkStatus();
}

absl::Status FileStore::MakeOwnerDirectory(const StoreKey& key) {
  GMA_ASSIGN_OR_RETURN(const bool made, MakeDirectory(DirectoryOf(key)));
  return made ? SyncDirectory(options_.directory) : absl::OkStatus();
}

absl::Status FileStore::WriteTemporary(const StoreKey& key, const StoreHeader& header,
                                       std::string_view snapshot) {
  GMA_RETURN_IF_ERROR(MakeOwnerDirectory(key));
  const std::string path = PathOf(key, ".tmp");
  GMA_ASSIGN_OR_RETURN(const OwnedFd file, OpenDiskFile(path, O_WRONLY | O_CREAT | O_TRUNC));
  GMA_RETURN_IF_ERROR(WriteAll(file.get(), EncodeStoreHeader(header), path));
  GMA_RETURN_IF_ERROR(WriteAll(file.get(), snapshot, path));
  return SyncFile(file.get(), path);
}

absl::Status FileStore::PutSnapshot(const StoreKey& key, uint64_t epoch, absl::Duration ttl,
                                    std::string_view snapshot) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  Held held(*this, key);
  if (epoch < held.entry.epoch) return FencedError(key, epoch, held.entry.epoch);
  const int64_t new_bytes = static_cast<int64_t>(kStoreHeaderBytes + snapshot.size());
  GMA_RETURN_IF_ERROR(ReserveBytes(held, new_bytes - held.Bytes()));
  const absl::Time now = clock_.Now();
  const uint64_t old_generation = held.entry.generation;
  const StoreHeader header = {false, epoch, old_generation + 1, ttl, now, snapshot.size()};
  absl::Status written = WriteTemporary(key, header, snapshot);
  if (written.ok()) written = RenameFile(PathOf(key, ".tmp"), PathOf(key, ".gma"));
  if (!written.ok()) {
    unlink(PathOf(key, ".tmp").c_str());  // what stays is removed at the next start
    return written;
  }
  held.entry = Entry{.generation = header.generation, .snapshot_bytes = new_bytes};
  held.Touch(epoch, ttl, now);
  absl::Status durable = SyncDirectory(DirectoryOf(key));
  if (!durable.ok()) {
    // A crash may yet bring back the old snapshot, so its journal stays, and a record that follows
    // the new one must not be promised to anyone.
    held.entry.journal_broken = true;
    return durable;
  }
  DropJournal(held, old_generation);
  return absl::OkStatus();
}

absl::Status FileStore::Remove(const StoreKey& key, uint64_t epoch) {
  GMA_RETURN_IF_ERROR(CheckStoreWrite(key, epoch));
  Held held(*this, key);
  if (held.entry.kind == Kind::kAbsent) return absl::OkStatus();
  if (epoch < held.entry.epoch) return FencedError(key, epoch, held.entry.epoch);
  return Erase(held);
}

absl::Status FileStore::Erase(Held& held) {
  // The snapshot goes first: a journal without it is nothing, but it without its journal would be
  // an older state of the session.
  GMA_RETURN_IF_ERROR(UnlinkFile(PathOf(held.name, ".gma")));
  DropJournal(held, held.entry.generation);
  held.entry = Entry{};
  return SyncDirectory(DirectoryOf(held.name));
}

absl::Status FileStore::Bury(Held& held) {
  const StoreHeader header = {true,       held.entry.epoch, held.entry.generation,
                              held.ttl(), held.saved_at(),  0};
  const std::string path = PathOf(held.name, ".gma");
  GMA_ASSIGN_OR_RETURN(const OwnedFd file, OpenDiskFile(path, O_WRONLY | O_CREAT));
  // In place and not synced: should a crash undo it, the session is as expired as before.
  GMA_RETURN_IF_ERROR(WriteAll(file.get(), EncodeStoreHeader(header), path));
  GMA_RETURN_IF_ERROR(TruncateFile(file.get(), kStoreHeaderBytes, path));
  DropJournal(held, held.entry.generation);
  held.entry.kind = Kind::kTombstone;
  held.entry.snapshot_bytes = kStoreHeaderBytes;
  held.entry.journal_bytes = held.entry.synced_bytes = 0;
  return absl::OkStatus();
}

void FileStore::Expire(absl::Time now) {
  std::vector<Key> due;
  {
    MutexLock lock(&mutex_);
    for (const auto& [key, entry] : index_) {
      const absl::Duration kept = entry.kind == Kind::kLive ? absl::ZeroDuration() : kTombstoneTime;
      if (HasExpired(absl::FromUnixNanos(entry.saved_at), absl::Nanoseconds(entry.ttl),
                     now - kept)) {
        due.push_back(key);
      }
    }
  }
  for (const Key& key : due) {
    Held held(*this, NameOf(key));
    const bool live = held.entry.kind == Kind::kLive;
    const absl::Duration kept = live ? absl::ZeroDuration() : kTombstoneTime;
    // Written or removed since.
    if (held.entry.kind == Kind::kAbsent || !HasExpired(held.saved_at(), held.ttl(), now - kept)) {
      continue;
    }
    const absl::Status done = live ? Bury(held) : Erase(held);
    if (!done.ok()) {
      GMA_LOG(kError, "store_expire_failed", {{"reason", std::string(done.message())}});
    }
  }
}

absl::StatusOr<std::vector<StoredEntry>> FileStore::List(std::string_view owner,
                                                         std::string_view after, int limit) {
  GMA_RETURN_IF_ERROR(CheckStoreListing(owner, after));
  const absl::Time now = clock_.Now();
  const std::string first = after.empty() ? std::string(32, '0') : std::string(after);
  std::vector<StoredEntry> sessions;
  MutexLock lock(&mutex_);
  for (auto at = index_.lower_bound(IndexKey({std::string(owner), first}));
       at != index_.end() && static_cast<int>(sessions.size()) < limit; ++at) {
    StoreKey name = NameOf(at->first);
    if (name.owner != owner) break;
    const Entry& entry = at->second;
    const absl::Time saved_at = absl::FromUnixNanos(entry.saved_at);
    const absl::Duration ttl = absl::Nanoseconds(entry.ttl);
    if (name.id == after || entry.kind != Kind::kLive || HasExpired(saved_at, ttl, now)) continue;
    sessions.push_back(
        {std::move(name.id), saved_at, ttl, entry.snapshot_bytes + entry.journal_bytes});
  }
  return sessions;
}

int64_t FileStore::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace gma
