#include "server/store/file_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/store_key.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kTtl = absl::Hours(1);

class FileStoreTest : public ::testing::Test {
 protected:
  FileStoreTest() { SetLogLevel(LogLevel::kError); }

  void Open(int64_t max_bytes = 0) {
    store_.reset();
    auto store = FileStore::Open({directory_.path(), max_bytes}, clock_);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }
  std::string File(const std::string& suffix, uint64_t id = 1) const {
    return directory_.File(SomeKey().owner + "/" + StoreName(id) + suffix);
  }
  // Of all sessions' files, without the directories.
  std::set<std::string> Files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
      if (entry.is_regular_file()) names.insert(entry.path().filename());
    }
    return names;
  }
  // Flips one bit of a file in place.
  static void Flip(const std::string& path, size_t bit) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(bit / 8));
    const int old = file.get();
    file.seekp(static_cast<std::streamoff>(bit / 8));
    file.put(static_cast<char>(old ^ (1 << (bit % 8))));
    ASSERT_TRUE(file.good()) << path;
  }

  TempDir directory_;
  FakeClock clock_;
  std::unique_ptr<FileStore> store_;
};

TEST_F(FileStoreTest, OneServerADirectory) {
  Open();
  EXPECT_THAT(FileStore::Open({directory_.path(), 0}, clock_).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(directory_.path()), HasSubstr("another server"))));
  store_.reset();
  EXPECT_THAT(FileStore::Open({directory_.path(), 0}, clock_), IsOk());
}

TEST_F(FileStoreTest, WhatCannotBeADirectoryIsRefusedByName) {
  const std::string file = directory_.Write("file", "x");
  for (const std::string& path : {file, directory_.File("no/such/parent")}) {
    EXPECT_THAT(FileStore::Open({path, 0}, clock_).status(),
                StatusIs(absl::StatusCode::kInternal, HasSubstr(path)));
  }
}

TEST_F(FileStoreTest, FilesAreTheOwnersAlone) {
  umask(0);
  const std::string inner = directory_.File("state");
  GMA_ASSERT_OK_AND_ASSIGN(const auto store, FileStore::Open({inner, 0}, clock_));
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "y", true), IsOk());
  umask(022);
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(inner)) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, entry.is_directory() ? 0700U : 0600U) << entry.path();
    files += entry.is_directory() ? 0 : 1;
  }
  EXPECT_EQ(files, 2);
  struct stat info;
  ASSERT_EQ(stat(inner.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);
}

TEST_F(FileStoreTest, LeftoversOfACrashAreRemovedAtStart) {
  Open();
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "one"), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "r", true), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "two"), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "s", true), IsOk());
  store_.reset();
  const std::string owner = SomeKey().owner + "/";
  directory_.Write(owner + StoreName(1) + ".tmp", "half a snap");
  directory_.Write(owner + StoreName(1) + ".1.log", "of an older generation");
  directory_.Write(owner + StoreName(2) + ".7.log", "of no session");
  directory_.Write(owner + StoreName(3) + ".0.log", "");
  directory_.Write(owner + "notes.txt", "not ours");
  Open();
  EXPECT_THAT(Files(), ElementsAre(StoreName(1) + ".2.log", StoreName(1) + ".gma", "notes.txt"));
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "two");
  EXPECT_THAT(session.journal, ElementsAre("s"));
}

TEST_F(FileStoreTest, ATornJournalKeepsTheRecordsBeforeAtEveryCut) {
  Open();
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "snapshot"), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "first", true), IsOk());
  const auto whole = std::filesystem::file_size(File(".1.log"));
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "second", true), IsOk());
  const auto end = std::filesystem::file_size(File(".1.log"));
  store_.reset();
  GMA_ASSERT_OK_AND_ASSIGN(const std::string journal, ReadDiskFile(File(".1.log")));
  for (auto length = whole; length < end; ++length) {
    directory_.Write(SomeKey().owner + "/" + StoreName(1) + ".1.log", journal.substr(0, length));
    Open();
    EXPECT_EQ(std::filesystem::file_size(File(".1.log")), whole);
    GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
    EXPECT_THAT(session.journal, ElementsAre("first"));
    // What is appended next comes behind the last whole record.
    ASSERT_THAT(store_->Append(SomeKey(), session.epoch, kTtl, "next", true), IsOk());
    Open();
    GMA_ASSERT_OK_AND_ASSIGN(const StoredSession again, store_->Claim(SomeKey()));
    EXPECT_THAT(again.journal, ElementsAre("first", "next"));
    store_.reset();
  }
}

TEST_F(FileStoreTest, ADamagedRecordBeforeADurableOneIsLossAndNotATornTail) {
  Open();
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "first", true), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "second", true), IsOk());
  store_.reset();
  Flip(File(".0.log"), 8 * kFrameHeaderBytes + 3);
  ASSERT_NO_FATAL_FAILURE(Open());
  EXPECT_THAT(store_->Claim(SomeKey()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  EXPECT_THAT(store_->Append(SomeKey(), 9, kTtl, "x", true),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  // A new snapshot makes it whole.
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 9, kTtl, "new"), IsOk());
  Open();
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "new");
  EXPECT_THAT(session.journal, IsEmpty());
}

TEST_F(FileStoreTest, ASnapshotFileOfAnotherSizeOrWithAFlippedHeaderIsLoss) {
  Open();
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "the snapshot"), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "another"), IsOk());
  store_.reset();
  GMA_ASSERT_OK_AND_ASSIGN(const std::string good, ReadDiskFile(File(".gma")));
  const std::string name = SomeKey().owner + "/" + StoreName(1) + ".gma";
  for (size_t length = 0; length < good.size(); ++length) {
    directory_.Write(name, good.substr(0, length));
    Open();
    EXPECT_THAT(store_->Claim(SomeKey()),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")))
        << length;
  }
  directory_.Write(name, good);
  Flip(File(".gma"), 8 * 20);
  Open();
  EXPECT_THAT(store_->Claim(SomeKey()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  EXPECT_THAT(store_->Claim(SomeKey(2)), IsOk());
  // What nobody can read is kept for a week.
  clock_.Advance(absl::Now() + 2 * kTombstoneTime - clock_.Now());
  store_->Expire(clock_.Now());
  EXPECT_THAT(store_->Claim(SomeKey()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
}

TEST_F(FileStoreTest, AFlippedBitInTheBlobPassesThroughToTheSeal) {
  Open();
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "abc"), IsOk());
  Flip(File(".gma"), 8 * (kStoreHeaderBytes + 1));
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "acc");
}

TEST_F(FileStoreTest, TheByteBudgetRefusesBeforeAnythingIsWritten) {
  Open(1000);
  ASSERT_THAT(store_->PutSnapshot(SomeKey(1), 1, kTtl, std::string(400, 'a')), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, std::string(400, 'b')), IsOk());
  const int64_t used = 2 * (400 + static_cast<int64_t>(kStoreHeaderBytes));
  EXPECT_EQ(store_->bytes(), used);
  const auto full = StatusIs(absl::StatusCode::kResourceExhausted,
                             AllOf(HasSubstr("limit is 1000"), HasSubstr("bytes")));
  EXPECT_THAT(store_->PutSnapshot(SomeKey(3), 1, kTtl, std::string(9, 'c')), full);
  EXPECT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, std::string(473, 'B')), full);
  EXPECT_THAT(store_->Append(SomeKey(2), 1, kTtl, std::string(100, 'r'), false), full);
  EXPECT_EQ(store_->bytes(), used);
  EXPECT_THAT(Files(), ElementsAre(StoreName(1) + ".gma", StoreName(2) + ".gma"));
  // Exactly full, and what replaces as much as it takes, fits.
  ASSERT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, std::string(472, 'B')), IsOk());
  EXPECT_EQ(store_->bytes(), 1000);
  ASSERT_THAT(store_->PutSnapshot(SomeKey(1), 1, kTtl, std::string(400, 'A')), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey(1)));
  EXPECT_EQ(session.snapshot, std::string(400, 'A'));
  Open(1000);
  EXPECT_GT(store_->bytes(), 1000);  // the claim's note is never refused
  ASSERT_THAT(store_->Remove(SomeKey(1), 2), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(3), 1, kTtl, "c"), IsOk());
  ASSERT_THAT(store_->Remove(SomeKey(2), 1), IsOk());
  ASSERT_THAT(store_->Remove(SomeKey(3), 1), IsOk());
  EXPECT_EQ(store_->bytes(), 0);
}

TEST_F(FileStoreTest, ExpiredContentIsGoneFromTheDiskAndTheTombstoneAWeekLater) {
  Open();
  ASSERT_THAT(store_->PutSnapshot(SomeKey(1), 1, kTtl, std::string(5000, 's')), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(1), 1, kTtl, "record", false), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(2), 1, kTtl, "record alone", false), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(3), 1, 3 * kTtl, "lives"), IsOk());
  clock_.Advance(kTtl + absl::Minutes(2));
  store_->Expire(clock_.Now());
  EXPECT_THAT(Files(),
              ElementsAre(StoreName(1) + ".gma", StoreName(2) + ".gma", StoreName(3) + ".gma"));
  EXPECT_EQ(std::filesystem::file_size(File(".gma", 1)), kStoreHeaderBytes);
  EXPECT_EQ(std::filesystem::file_size(File(".gma", 2)), kStoreHeaderBytes);
  EXPECT_EQ(store_->bytes(), 3 * static_cast<int64_t>(kStoreHeaderBytes) + 5);
  clock_.Advance(kTombstoneTime);
  Open();
  EXPECT_THAT(Files(), ElementsAre(StoreName(3) + ".gma"));  // a tombstone now
  EXPECT_THAT(store_->Claim(SomeKey(1)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no session")));
  EXPECT_THAT(store_->Claim(SomeKey(3)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired at")));
}

TEST_F(FileStoreTest, MoreJournalsThanOpenFilesAllBecomeDurable) {
  Open();
  for (int round = 0; round < 3; ++round) {
    for (uint64_t id = 0; id < 300; ++id) {
      ASSERT_THAT(store_->Append(SomeKey(id), 1, kTtl, absl::StrCat(round), false), IsOk());
    }
  }
  const auto open_files = std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                        std::filesystem::directory_iterator());
  EXPECT_LT(open_files, 200);
  ASSERT_THAT(store_->Sync(), IsOk());
  Open();
  for (uint64_t id = 0; id < 300; ++id) {
    GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey(id)));
    EXPECT_THAT(session.journal, ElementsAre("0", "1", "2"));
  }
}

TEST_F(FileStoreTest, ManyThreadsEachWithItsSessionsAndOneThatSyncsAndExpires) {
  Open();
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread, &failures] {
      for (int i = 0; i < 100; ++i) {
        const StoreKey key = SomeKey(thread + 4 * (i % 3));
        failures += store_->Append(key, 1, kTtl, absl::StrCat(i), i % 10 == 0).ok() ? 0 : 1;
        if (i % 20 == 3) failures += store_->PutSnapshot(key, 1, kTtl, "s").ok() ? 0 : 1;
      }
    });
  }
  threads.emplace_back([this, &failures] {
    for (int i = 0; i < 50; ++i) {
      failures += store_->Sync().ok() ? 0 : 1;
      store_->Expire(clock_.Now());
      failures += store_->List(SomeKey().owner, "", 100).ok() ? 0 : 1;
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  Open();
  for (uint64_t id = 0; id < 12; ++id) {
    GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey(id)));
    EXPECT_EQ(session.snapshot, "s");
    ASSERT_FALSE(session.journal.empty());
    EXPECT_EQ(session.journal.back(), absl::StrCat(97 + (id / 4 + 2) % 3));
  }
}

}  // namespace
}  // namespace gma::testing
