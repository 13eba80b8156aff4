// The start of a file store: its lock, and the index of what the files hold.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/store/file_store.h"
#include "server/store/store_key.h"

namespace gma {
namespace {

// The names in a directory, without `.` and `..`.
absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& path) {
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return DiskError(path, "opendir", errno);
  absl::Cleanup close_directory = [directory] { closedir(directory); };
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return DiskError(path, "readdir", errno);
  return names;
}

// The generation of a journal's name `<id>.<generation>.log`; -1 for another name.
int64_t GenerationOf(std::string_view name) {
  constexpr std::string_view kSuffix = ".log";
  if (name.size() < 33 + 1 + kSuffix.size() || name[32] != '.' || !name.ends_with(kSuffix)) {
    return -1;
  }
  const std::string digits(name.substr(33, name.size() - 33 - kSuffix.size()));
  int64_t generation = -1;
  const bool canonical =
      absl::SimpleAtoi(digits, &generation) && absl::StrCat(generation) == digits;
  return canonical ? generation : -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Open(FileStoreOptions options,
                                                           const Clock& clock) {
  GMA_RETURN_IF_ERROR(MakeDirectory(options.directory).status());
  GMA_ASSIGN_OR_RETURN(OwnedFd directory, OpenDiskFile(options.directory, O_RDONLY | O_DIRECTORY));
  if (flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return DiskError(options.directory, "flock", errno);
    return absl::FailedPreconditionError(
        absl::StrCat(options.directory, ": another server keeps its sessions here"));
  }
  std::unique_ptr<FileStore> store(new FileStore(std::move(options), clock, std::move(directory)));
  GMA_RETURN_IF_ERROR(store->ReadAll());
  store->Expire(clock.Now());
  return store;
}

absl::Status FileStore::ReadAll() {
  GMA_ASSIGN_OR_RETURN(const std::vector<std::string> owners, NamesIn(options_.directory));
  for (const std::string& owner : owners) {
    if (IsStoreName(owner)) GMA_RETURN_IF_ERROR(ReadOwner(owner));
  }
  return absl::OkStatus();
}

absl::Status FileStore::ReadOwner(const std::string& owner) {
  struct Files {
    bool snapshot = false;
    std::vector<uint64_t> generations;
  };
  GMA_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(DirectoryOf({owner, ""})));
  std::map<std::string, Files> sessions;
  for (const std::string& name : names) {
    const StoreKey key = {owner, name.substr(0, 32)};
    if (!IsStoreName(key.id)) continue;
    const std::string suffix = name.substr(32);
    if (const int64_t generation = GenerationOf(name); generation >= 0) {
      sessions[key.id].generations.push_back(static_cast<uint64_t>(generation));
    } else if (suffix == ".gma") {
      sessions[key.id].snapshot = true;
    } else if (suffix == ".tmp") {
      GMA_RETURN_IF_ERROR(UnlinkFile(PathOf(key, ".tmp")));
    }
  }
  for (const auto& [id, files] : sessions) {
    ReadSession({owner, id}, files.snapshot, files.generations);
  }
  // Gone unless something is in it.
  rmdir(DirectoryOf({owner, ""}).c_str());
  return absl::OkStatus();
}

void FileStore::ReadSession(const StoreKey& key, bool has_snapshot,
                            const std::vector<uint64_t>& generations) {
  Entry entry;
  if (has_snapshot) ReadSnapshotAtStart(key, entry);
  for (const uint64_t generation : generations) {
    if (entry.kind == Kind::kDamaged) {
      entry.generation = std::max(entry.generation, generation);
    } else if (entry.kind == Kind::kTombstone || generation != entry.generation) {
      // Of a snapshot before the present one, or of none: a crash came before it was removed.
      if (absl::Status gone = UnlinkFile(JournalPath(key, generation)); !gone.ok()) {
        GMA_LOG(kWarning, "store_journal_left", {{"reason", std::string(gone.message())}});
      }
    } else {
      ReadJournalAtStart(key, entry);
    }
  }
  if (entry.kind == Kind::kAbsent) return;
  MutexLock lock(&mutex_);
  bytes_ += entry.snapshot_bytes + entry.journal_bytes;
  index_[IndexKey(key)] = entry;
}

void FileStore::ReadSnapshotAtStart(const StoreKey& key, Entry& entry) {
  const std::string path = PathOf(key, ".gma");
  struct stat info = {};
  stat(path.c_str(), &info);
  const absl::StatusOr<std::string> head = ReadDiskFile(path, 0, kStoreHeaderBytes);
  const absl::StatusOr<StoreHeader> header =
      head.ok() ? DecodeStoreHeader(*head) : absl::StatusOr<StoreHeader>(head.status());
  entry.snapshot_bytes = info.st_size;
  const bool whole = header.ok() && (header->tombstone || header->blob_bytes + kStoreHeaderBytes ==
                                                              static_cast<uint64_t>(info.st_size));
  if (!whole) {
    GMA_LOG(kError, "store_snapshot_damaged",
            {{"path", path},
             {"bytes", int64_t{info.st_size}},
             {"reason", header.ok() ? "its size is not what its header says"
                                    : std::string(header.status().message())}});
    entry.kind = Kind::kDamaged;
    entry.saved_at = absl::ToUnixNanos(absl::TimeFromTimespec(info.st_mtim));
    return;
  }
  entry.kind = header->tombstone ? Kind::kTombstone : Kind::kLive;
  entry.epoch = header->epoch;
  entry.generation = header->generation;
  entry.saved_at = absl::ToUnixNanos(header->saved_at);
  entry.ttl = absl::ToInt64Nanoseconds(header->ttl);
}

void FileStore::ReadJournalAtStart(const StoreKey& key, Entry& entry) {
  const std::string path = JournalPath(key, entry.generation);
  const absl::StatusOr<std::string> bytes = ReadDiskFile(path);
  const absl::StatusOr<JournalContents> journal =
      bytes.ok() ? DecodeJournal(*bytes) : absl::StatusOr<JournalContents>(bytes.status());
  if (!journal.ok()) {
    GMA_LOG(kError, "store_journal_damaged",
            {{"path", path}, {"reason", std::string(journal.status().message())}});
    entry.kind = Kind::kDamaged;
    entry.saved_at = absl::ToUnixNanos(clock_.Now());
    entry.ttl = 0;
    return;
  }
  if (journal->torn || journal->frames.empty()) {
    GMA_LOG(kWarning, "store_journal_torn",
            {{"path", path},
             {"kept_bytes", journal->whole_bytes},
             {"dropped_bytes", bytes->size() - journal->whole_bytes}});
    const absl::StatusOr<OwnedFd> file = OpenDiskFile(path, O_WRONLY);
    entry.journal_broken =
        !file.ok() || !TruncateFile(file->get(), journal->whole_bytes, path).ok();
  }
  for (const JournalFrame& frame : journal->frames) {
    entry.kind = Kind::kLive;
    entry.epoch = std::max(entry.epoch, frame.epoch);
    entry.saved_at = absl::ToUnixNanos(frame.at);
    entry.ttl = absl::ToInt64Nanoseconds(frame.ttl);
    entry.synced_bytes = static_cast<int64_t>(frame.synced);
  }
  entry.journal_bytes = static_cast<int64_t>(journal->whole_bytes);
  if (entry.kind == Kind::kAbsent) {
    UnlinkFile(path).IgnoreError();  // a session whose first record never was whole
  } else if (entry.synced_bytes < entry.journal_bytes) {
    MutexLock lock(&mutex_);
    dirty_.insert(IndexKey(key));
  }
}

}  // namespace gma
