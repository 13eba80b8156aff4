// Part of file_store.cc and file_store_journal.cc: one session of the index, exclusively.
#ifndef GMA_SERVER_STORE_FILE_STORE_HELD_H_
#define GMA_SERVER_STORE_FILE_STORE_HELD_H_

#include <utility>

#include "server/store/file_store.h"

namespace gma {

// Waits until no other call is at work on the session, then holds it. `entry` is a copy of its
// place in the index, written back (or, if kAbsent, taken out) at the end of life.
class FileStore::Held {
 public:
  Held(FileStore& store, StoreKey session)
      : name(std::move(session)), key(IndexKey(name)), store_(store) {
    MutexLock lock(&store_.mutex_);
    while (store_.index_[key].held) store_.released_.Wait(store_.mutex_);
    entry = store_.index_[key];
    store_.index_[key].held = true;
    before_ = Bytes();
  }
  ~Held() {
    MutexLock lock(&store_.mutex_);
    store_.reserved_ -= reserved;
    store_.bytes_ += Bytes() - before_;
    if (entry.kind == Kind::kAbsent) {
      store_.index_.erase(key);
    } else {
      store_.index_[key] = entry;
    }
    store_.released_.NotifyAll();
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  int64_t Bytes() const { return entry.snapshot_bytes + entry.journal_bytes; }
  absl::Time saved_at() const { return absl::FromUnixNanos(entry.saved_at); }
  absl::Duration ttl() const { return absl::Nanoseconds(entry.ttl); }
  void Touch(uint64_t epoch, absl::Duration ttl, absl::Time now) {
    entry.epoch = epoch;
    entry.ttl = absl::ToInt64Nanoseconds(ttl);
    entry.saved_at = absl::ToUnixNanos(now);
    entry.kind = Kind::kLive;
  }

  const StoreKey name;
  const Key key;
  Entry entry;
  int64_t reserved = 0;

 private:
  FileStore& store_;
  int64_t before_ = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_STORE_FILE_STORE_HELD_H_
