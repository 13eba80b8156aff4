#include "server/engine/keeper.h"

#include <pthread.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/session/sealed.h"

namespace gma {
namespace {

constexpr absl::Duration kExpiryInterval = absl::Minutes(1);
constexpr absl::Duration kRemovalInterval = absl::Seconds(1);  // of those that failed
constexpr size_t kStoreNameBytes = 16;                         // of the hash of an owner

size_t BytesOf(const SaveJob& job) {
  size_t bytes = job.row->size() + job.image.last_turn.size() + 64;
  for (const CheckpointImage& checkpoint : job.image.past.checkpoints) {
    bytes += checkpoint.row->size();
  }
  return bytes + static_cast<size_t>(job.image.past.log.end() - job.image.past.log.begin()) * 4;
}

size_t BytesOf(const JournalRecord& record) {
  if (const auto* begin = std::get_if<TurnBeginRecord>(&record)) {
    return 256 + begin->feed.size() * 4 + begin->sampling.allowed_tokens.size() * 4;
  }
  if (const auto* end = std::get_if<TurnEndRecord>(&record)) return 64 + end->drawn.size() * 4;
  if (const auto* input = std::get_if<InterjectionRecord>(&record)) {
    return 64 + input->tokens.size() * 4;
  }
  return 64;
}

// What a client is told of a stored session that does not open.
absl::Status StoredError(const SessionId& id, const absl::Status& status) {
  const absl::StatusCode code = status.code() == absl::StatusCode::kFailedPrecondition
                                    ? status.code()
                                    : absl::StatusCode::kDataLoss;
  return absl::Status(
      code, absl::StrCat("session ", id.Hex(), " in the store: ", std::string(status.message())));
}

}  // namespace

Keeper::Keeper(KeeperOptions options, std::unique_ptr<SessionStore> store, const Clock& clock,
               Metrics& metrics)
    : options_(std::move(options)),
      store_(std::move(store)),
      clock_(clock),
      metrics_(metrics),
      next_sync_(clock.Monotonic() + options_.sync_interval),
      next_expiry_(clock.Monotonic() + kExpiryInterval) {}

Keeper::~Keeper() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    work_.NotifyAll();
  }
  if (writer_.joinable()) writer_.join();
  if (reader_.joinable()) reader_.join();
}

void Keeper::Start(Post post) {
  post_ = std::move(post);
  if (!options_.threads) return;
  writer_ = std::thread([this] { RunWriter(); });
  reader_ = std::thread([this] { RunReader(); });
}

StoreKey Keeper::NameOf(const StoredName& name) {
  return {.owner = absl::BytesToHexString(OwnerHash(name.owner).substr(0, kStoreNameBytes)),
          .id = name.id.Hex()};
}

bool Keeper::HasRoom(size_t bytes) const {
  MutexLock lock(&mutex_);
  return writing_ == 0 || queued_bytes_ + bytes <= options_.max_queued_bytes;
}

void Keeper::Write(const StoredName& name, size_t bytes, absl::AnyInvocable<void()> run) {
  const StoreKey key = NameOf(name);
  MutexLock lock(&mutex_);
  writes_.push_back({.key = {key.owner, key.id},
                     .bytes = bytes,
                     .asked_at = clock_.Monotonic(),
                     .run = std::move(run)});
  ++in_work_[writes_.back().key];
  ++writing_;
  queued_bytes_ += bytes;
  work_.NotifyAll();
}

void Keeper::Save(SaveJob job, Done<Written> done) {
  const StoredName name = job.name;
  const size_t bytes = BytesOf(job);
  auto shared = std::make_shared<SaveJob>(std::move(job));
  Write(name, bytes, [this, shared, done = std::move(done)]() mutable {
    absl::StatusOr<Written> written = DoSave(std::move(*shared));
    shared.reset();
    post_([done = std::move(done), written]() mutable { done(written); });
  });
}

void Keeper::Append(AppendJob job, Done<Written> done) {
  const StoredName name = job.name;
  const size_t bytes = BytesOf(job.record);
  Write(name, bytes, [this, job = std::move(job), done = std::move(done)]() mutable {
    absl::StatusOr<Written> written = DoAppend(job);
    post_([done = std::move(done), written]() mutable { done(written); });
  });
}

void Keeper::Remove(StoredName name, uint64_t epoch) {
  const StoredName named = name;
  Write(named, 0, [this, name = std::move(name), epoch] { DoRemove(NameOf(name), epoch); });
}

void Keeper::Claim(StoredName name, Done<ClaimedSession> done) {
  const StoredName named = name;
  Read(named, [this, name = std::move(name), done = std::move(done)]() mutable {
    auto claimed = std::make_shared<absl::StatusOr<ClaimedSession>>(DoClaim(name));
    post_([done = std::move(done), claimed]() mutable { done(std::move(*claimed)); });
  });
}

void Keeper::Verify(StoredName name, uint64_t epoch,
                    absl::AnyInvocable<void(const absl::Status&)> done) {
  const StoredName named = name;
  Read(named, [this, name = std::move(name), epoch, done = std::move(done)]() mutable {
    const absl::Status status = store_->Verify(NameOf(name), epoch);
    // Another server's session is what is asked for, and no failure.
    if (status.code() != absl::StatusCode::kAborted) {
      Count(StoreCallLabel::kClaim, status).IgnoreError();
    }
    post_([done = std::move(done), status]() mutable { done(status); });
  });
}

void Keeper::Read(const StoredName& name, absl::AnyInvocable<void()> run) {
  const StoreKey key = NameOf(name);
  MutexLock lock(&mutex_);
  Job job{.key = {key.owner, key.id},
          .bytes = 0,
          .asked_at = clock_.Monotonic(),
          .run = std::move(run)};
  const bool behind_writes = in_work_.contains(job.key);
  ++in_work_[job.key];
  if (behind_writes) ++writing_;
  (behind_writes ? writes_ : reads_).push_back(std::move(job));
  work_.NotifyAll();
}

void Keeper::List(std::string owner, std::string after, int32_t limit,
                  Done<std::vector<StoredEntry>> done) {
  const std::string name = NameOf({.owner = std::move(owner), .id = SessionId({0, 0})}).owner;
  auto run = [this, name, after = std::move(after), limit, done = std::move(done)]() mutable {
    auto listed = std::make_shared<absl::StatusOr<std::vector<StoredEntry>>>(
        store_->List(name, after, limit));
    Count(StoreCallLabel::kList, listed->status()).IgnoreError();
    post_([done = std::move(done), listed]() mutable { done(std::move(*listed)); });
  };
  MutexLock lock(&mutex_);
  Job job{.key = {name, ""}, .bytes = 0, .asked_at = clock_.Monotonic(), .run = std::move(run)};
  ++in_work_[job.key];
  reads_.push_back(std::move(job));
  work_.NotifyAll();
}

absl::Duration Keeper::OldestWrite() const {
  MutexLock lock(&mutex_);
  return writes_.empty() ? oldest_ : std::min(oldest_, writes_.front().asked_at);
}

bool Keeper::Flush(absl::Duration timeout) {
  if (!options_.threads) {
    while (StepWriter()) {
    }
    return true;
  }
  const absl::Duration deadline = RealClock().Monotonic() + timeout;
  MutexLock lock(&mutex_);
  while (writing_ > 0) {
    const absl::Duration left = deadline - RealClock().Monotonic();
    if (left <= absl::ZeroDuration()) return false;
    done_.WaitFor(mutex_, left);
  }
  return true;
}

bool Keeper::Step(bool write) {
  std::optional<Job> job;
  {
    MutexLock lock(&mutex_);
    std::deque<Job>& queue = write ? writes_ : reads_;
    if (queue.empty()) return false;
    job.emplace(std::move(queue.front()));
    queue.pop_front();
    if (write) oldest_ = job->asked_at;
  }
  job->run();
  MutexLock lock(&mutex_);
  const auto it = in_work_.find(job->key);
  if (--it->second == 0) in_work_.erase(it);
  if (!write) return true;
  oldest_ = absl::InfiniteDuration();
  queued_bytes_ -= job->bytes;
  --writing_;
  done_.NotifyAll();
  return true;
}

bool Keeper::StepWriter() {
  GMA_CHECK(!options_.threads);
  Maintain();
  return Step(/*write=*/true);
}

bool Keeper::StepReader() {
  GMA_CHECK(!options_.threads);
  return Step(/*write=*/false);
}

void Keeper::RunWriter() {
  pthread_setname_np(pthread_self(), "gma-store-write");
  while (true) {
    Maintain();
    if (Step(/*write=*/true)) continue;
    MutexLock lock(&mutex_);
    if (stopping_) return;
    const absl::Duration left = NextMaintenance() - clock_.Monotonic();
    if (writes_.empty() && left > absl::ZeroDuration()) work_.WaitFor(mutex_, left);
  }
}

void Keeper::RunReader() {
  pthread_setname_np(pthread_self(), "gma-store-read");
  while (true) {
    if (Step(/*write=*/false)) continue;
    MutexLock lock(&mutex_);
    if (stopping_) return;
    if (reads_.empty()) work_.WaitFor(mutex_, absl::Seconds(1));
  }
}

absl::Duration Keeper::NextMaintenance() const {
  const absl::Duration next = std::min(next_expiry_, next_removal_);
  return unsynced_ ? std::min(next_sync_, next) : next;
}

void Keeper::Maintain() {
  const absl::Duration now = clock_.Monotonic();
  if (unsynced_ && now >= next_sync_) {
    unsynced_ = false;
    Count(StoreCallLabel::kSync, store_->Sync()).IgnoreError();
  }
  if (now >= next_removal_) {
    next_removal_ = absl::InfiniteDuration();
    for (const auto& [key, epoch] : std::exchange(removals_, {})) {
      DoRemove({.owner = key.first, .id = key.second}, epoch);
    }
  }
  if (now < next_expiry_) return;
  store_->Expire(clock_.Now());
  next_expiry_ = now + kExpiryInterval;
}

absl::Status Keeper::Count(StoreCallLabel call, const absl::Status& status) {
  if (status.ok() || status.code() == absl::StatusCode::kNotFound) return status;
  metrics_.store_errors[call]->Increment();
  GMA_LOG(kWarning, "store_failed",
          {{"call", StoreCallName(call)},
           {"code", absl::StatusCodeToString(status.code())},
           {"reason", std::string(status.message())}});
  return status;
}

void Keeper::DoRemove(const StoreKey& key, uint64_t epoch) {
  const absl::Status status = Count(StoreCallLabel::kRemove, store_->Remove(key, epoch));
  const absl::StatusCode code = status.code();
  if (status.ok() || code == absl::StatusCode::kNotFound || code == absl::StatusCode::kAborted) {
    return;
  }
  removals_[Key(key.owner, key.id)] = epoch;
  next_removal_ = clock_.Monotonic() + kRemovalInterval;
}

absl::Status Keeper::Break(const StoreKey& key, const absl::Status& status) {
  // Another server's session stays that, whatever else is asked for it.
  const bool moved = status.code() == absl::StatusCode::kAborted;
  MutexLock lock(&mutex_);
  broken_[Key(key.owner, key.id)] =
      moved ? status
            : absl::UnavailableError("an earlier write of the session to the store has failed");
  return status;
}

absl::StatusOr<Written> Keeper::DoSave(SaveJob job) {
  const absl::Duration start = clock_.Monotonic();
  const StoreKey key = NameOf(job.name);
  removals_.erase(Key(key.owner, key.id));
  job.image.row.resize(options_.scope.layout.row_bytes());
  DecodeRow(options_.scope.layout, *job.row, options_.encoding, absl::MakeSpan(job.image.row));
  job.row.reset();
  const std::string sealed = SealSnapshot(options_.scope,
                                          {.owner = job.name.owner,
                                           .created_at = clock_.Now(),
                                           .id = job.name.id,
                                           .epoch = job.epoch,
                                           .encoding = options_.encoding},
                                          std::move(job.image));
  const absl::Status status =
      Count(StoreCallLabel::kSave, store_->PutSnapshot(key, job.epoch, job.ttl, sealed));
  if (!status.ok()) return Break(key, status);
  {
    MutexLock lock(&mutex_);
    broken_.erase(Key(key.owner, key.id));
  }
  return Written{.bytes = static_cast<int64_t>(sealed.size()), .took = clock_.Monotonic() - start};
}

absl::StatusOr<Written> Keeper::DoAppend(const AppendJob& job) {
  const absl::Duration start = clock_.Monotonic();
  const StoreKey key = NameOf(job.name);
  removals_.erase(Key(key.owner, key.id));
  {
    MutexLock lock(&mutex_);
    const auto broken = broken_.find(Key(key.owner, key.id));
    if (broken != broken_.end()) return broken->second;
  }
  const std::string sealed =
      SealRecord(options_.scope, {.owner = job.name.owner, .id = job.name.id, .number = job.number},
                 job.record);
  const absl::Status status =
      Count(StoreCallLabel::kAppend, store_->Append(key, job.epoch, job.ttl, sealed, job.sync));
  if (!status.ok()) return Break(key, status);
  if (!job.sync && !unsynced_) {
    unsynced_ = true;
    next_sync_ = clock_.Monotonic() + options_.sync_interval;
  }
  return Written{.bytes = static_cast<int64_t>(sealed.size()), .took = clock_.Monotonic() - start};
}

absl::StatusOr<ClaimedSession> Keeper::DoClaim(const StoredName& name) {
  const StoreKey key = NameOf(name);
  absl::StatusOr<StoredSession> stored = store_->Claim(key);
  GMA_RETURN_IF_ERROR(Count(StoreCallLabel::kClaim, stored.status()));
  {
    MutexLock lock(&mutex_);
    broken_.erase(Key(key.owner, key.id));
  }
  ClaimedSession claimed{.epoch = stored->epoch,
                         .ttl = stored->ttl,
                         .image = std::nullopt,
                         .records = {},
                         .journaled = 0,
                         .bytes = static_cast<int64_t>(stored->snapshot.size())};
  if (!stored->snapshot.empty()) {
    absl::StatusOr<SessionImage> image =
        OpenSnapshot(options_.scope, name.owner, name.id, stored->snapshot);
    if (!image.ok()) return Count(StoreCallLabel::kClaim, StoredError(name.id, image.status()));
    claimed.journaled = image->journaled;
    claimed.image = *std::move(image);
  }
  for (const std::string& sealed : stored->journal) {
    absl::StatusOr<JournalRecord> record = OpenRecord(
        options_.scope, {.owner = name.owner, .id = name.id, .number = claimed.journaled}, sealed);
    claimed.bytes += static_cast<int64_t>(sealed.size());
    if (record.status().code() == absl::StatusCode::kAlreadyExists) continue;
    if (!record.ok()) return Count(StoreCallLabel::kClaim, StoredError(name.id, record.status()));
    claimed.records.push_back(*std::move(record));
    ++claimed.journaled;
  }
  return claimed;
}

}  // namespace gma
