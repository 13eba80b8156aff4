// What a crash, a full disk and a failing one leave behind.
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/file_store.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kTtl = absl::Hours(1);
constexpr const char* kPoints[] = {"store.open",           "store.mkdir",  "store.write",
                                   "store.short_write",    "store.sync",   "store.rename",
                                   "store.sync_directory", "store.unlink", "store.truncate"};

// One session in whole; `there` is false when the store has none.
struct Whole {
  bool there = false;
  std::string snapshot;
  std::vector<std::string> journal;
  friend bool operator==(const Whole&, const Whole&) = default;
};

class FileStoreFaultTest : public ::testing::Test {
 protected:
  FileStoreFaultTest() { SetLogLevel(LogLevel::kError); }
  ~FileStoreFaultTest() override { ClearFailpoints(); }

  std::unique_ptr<FileStore> Open(const std::string& path) {
    auto store = FileStore::Open({path, 0}, clock_);
    GMA_CHECK(store.ok());
    return *std::move(store);
  }
  // Claims in a fresh store.
  Whole ReadBack(const std::string& path) {
    const auto session = Open(path)->Claim(SomeKey());
    if (!session.ok()) {
      EXPECT_EQ(session.status().code(), absl::StatusCode::kNotFound) << session.status();
      return {};
    }
    return {true, session->snapshot, session->journal};
  }
  static int CountTemporaries(const std::string& path) {
    int count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      count += entry.path().extension() == ".tmp" ? 1 : 0;
    }
    return count;
  }

  FakeClock clock_;
};

const std::string& NewSnapshot() {
  static const std::string& bytes = *new std::string(100'000, 'n');
  return bytes;
}

// A change to a session, and the states that are allowed once it was interrupted anywhere.
struct Change {
  const char* name;
  std::function<absl::Status(SessionStore&)> make;
  Whole before, after;
  bool from_nothing = false;
};

std::vector<Change> Changes() {
  const Whole old = {true, "old snapshot", {"one", "two"}};
  return {
      {"put",
       [](SessionStore& store) { return store.PutSnapshot(SomeKey(), 1, kTtl, NewSnapshot()); },
       old,
       {true, NewSnapshot(), {}}},
      {"put the first",
       [](SessionStore& store) { return store.PutSnapshot(SomeKey(), 1, kTtl, NewSnapshot()); },
       {},
       {true, NewSnapshot(), {}},
       true},
      {"append",
       [](SessionStore& store) { return store.Append(SomeKey(), 1, kTtl, "three", true); },
       old,
       {true, "old snapshot", {"one", "two", "three"}}},
      {"append the first",
       [](SessionStore& store) { return store.Append(SomeKey(), 1, kTtl, "three", true); },
       {},
       {true, "", {"three"}},
       true},
      {"claim", [](SessionStore& store) { return store.Claim(SomeKey()).status(); }, old, old},
      {"remove", [](SessionStore& store) { return store.Remove(SomeKey(), 1); }, old, {}},
      {"expire",
       [](SessionStore& store) {
         store.Expire(absl::UnixEpoch() + absl::Hours(24));
         return absl::OkStatus();
       },
       old,
       {}},
  };
}

void Prepare(FileStore& store, const Change& change) {
  if (change.from_nothing) return;
  ASSERT_THAT(store.PutSnapshot(SomeKey(), 1, kTtl, "old snapshot"), IsOk());
  ASSERT_THAT(store.Append(SomeKey(), 1, kTtl, "one", true), IsOk());
  ASSERT_THAT(store.Append(SomeKey(), 1, kTtl, "two", true), IsOk());
}

// Runs the change in a child that dies at the Nth time of the point; false when it did not get
// there.
bool CrashesThere(const std::string& path, const Clock& clock, const Change& change,
                  const std::string& points) {
  const pid_t child = fork();
  if (child == 0) {
    auto store = FileStore::Open({path, 0}, clock);
    if (!store.ok() || !SetFailpoints(points).ok()) _exit(2);
    _exit(change.make(**store).ok() ? 0 : 1);
  }
  int status = 0;
  GMA_CHECK(waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) {
    EXPECT_EQ(WEXITSTATUS(status), 0) << change.name << " " << points;
  }
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

TEST_F(FileStoreFaultTest, ACrashAnywhereLeavesTheOldWholeStateOrTheNew) {
  int crashes = 0;
  for (const Change& change : Changes()) {
    bool saw_old = false, saw_new = false;
    for (const char* point : kPoints) {
      for (int nth = 1;; ++nth) {
        TempDir directory;
        {
          const auto store = Open(directory.path());
          ASSERT_NO_FATAL_FAILURE(Prepare(*store, change));
        }
        const std::string points = absl::StrCat(point, "=crash@", nth);
        if (!CrashesThere(directory.path(), clock_, change, points)) break;
        ++crashes;
        const Whole after = ReadBack(directory.path());
        EXPECT_TRUE(after == change.before || after == change.after)
            << change.name << " " << points << ": \"" << after.snapshot.substr(0, 20) << "\" and "
            << after.journal.size() << " records";
        EXPECT_EQ(CountTemporaries(directory.path()), 0) << change.name << " " << points;
        saw_old = saw_old || after == change.before;
        saw_new = saw_new || after == change.after;
      }
    }
    EXPECT_TRUE(saw_old) << change.name;
    // Nothing follows the last step of an append but its sync, and the write is seen by then.
    EXPECT_TRUE(saw_new) << change.name;
  }
  EXPECT_GT(crashes, 40);
  std::printf("crashed at %d places\n", crashes);
}

TEST_F(FileStoreFaultTest, AFailureAnywhereIsSaidAndLeavesAWholeState) {
  for (const Change& change : Changes()) {
    for (const char* point : kPoints) {
      for (const char* error : {"ENOSPC", "EIO", "EROFS"}) {
        TempDir directory;
        auto store = Open(directory.path());
        ASSERT_NO_FATAL_FAILURE(Prepare(*store, change));
        ASSERT_THAT(SetFailpoints(absl::StrCat(point, "=", error)), IsOk());
        const absl::Status status = change.make(*store);
        ClearFailpoints();
        const std::string what = absl::StrCat(change.name, " ", point, " ", error);
        EXPECT_EQ(CountTemporaries(directory.path()), 0) << what;
        if (!status.ok()) {
          EXPECT_EQ(status.code(), error == std::string("ENOSPC")
                                       ? absl::StatusCode::kResourceExhausted
                                       : absl::StatusCode::kInternal)
              << what << status;
        }
        store.reset();
        const Whole after = ReadBack(directory.path());
        // Done, but not durably: the directory could not be synced, or not opened for it.
        const bool durable_or_not =
            point == std::string("store.sync_directory") ||
            (point == std::string("store.open") && change.name == std::string("remove"));
        EXPECT_TRUE((after == change.before && (!status.ok() || change.before == change.after ||
                                                change.name == std::string("expire"))) ||
                    (after == change.after && (status.ok() || durable_or_not)))
            << what << " " << status << ": " << after.journal.size() << " records";
      }
    }
  }
}

// What is durable on return was synced, and so was the name of what is new.
TEST_F(FileStoreFaultTest, NoStepOfAChangeIsLeftOut) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> steps = {
      {"put", {"open", "mkdir", "write", "sync", "rename", "sync_directory"}},
      {"put the first", {"open", "mkdir", "write", "sync", "rename", "sync_directory"}},
      {"append", {"mkdir", "write", "sync"}},
      {"append the first", {"open", "mkdir", "write", "sync", "sync_directory"}},
      {"remove", {"unlink", "sync_directory"}}};
  const std::vector<Change> changes = Changes();
  for (const auto& [name, points] : steps) {
    const auto change = std::find_if(changes.begin(), changes.end(),
                                     [&name](const Change& c) { return c.name == name; });
    for (const std::string& point : points) {
      TempDir directory;
      auto store = Open(directory.path());
      ASSERT_NO_FATAL_FAILURE(Prepare(*store, *change));
      ASSERT_THAT(SetFailpoints(absl::StrCat("store.", point, "=EIO")), IsOk());
      EXPECT_THAT(change->make(*store),
                  StatusIs(absl::StatusCode::kInternal, HasSubstr("Input/output error")))
          << name << " " << point;
      ClearFailpoints();
    }
  }
}

TEST_F(FileStoreFaultTest, AFailedPutLeavesTheSessionInUse) {
  TempDir directory;
  auto store = Open(directory.path());
  ASSERT_NO_FATAL_FAILURE(Prepare(*store, Changes()[0]));
  for (const char* point : {"store.write", "store.sync", "store.rename"}) {
    ASSERT_THAT(SetFailpoints(absl::StrCat(point, "=ENOSPC")), IsOk());
    EXPECT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, NewSnapshot()),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("No space left")));
    ClearFailpoints();
  }
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "three", true), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "old snapshot");
  EXPECT_THAT(session.journal, ElementsAre("one", "two", "three"));
}

TEST_F(FileStoreFaultTest, AfterAFailedSyncTheJournalTakesNothingBeforeTheNextSnapshot) {
  TempDir directory;
  auto store = Open(directory.path());
  ASSERT_NO_FATAL_FAILURE(Prepare(*store, Changes()[0]));
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "three", false), IsOk());
  ASSERT_THAT(SetFailpoints("store.sync=EIO"), IsOk());
  EXPECT_THAT(store->Sync(), StatusIs(absl::StatusCode::kInternal, HasSubstr("fdatasync")));
  ClearFailpoints();
  EXPECT_THAT(store->Append(SomeKey(), 1, kTtl, "four", true),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("until the next snapshot")));
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, "new"), IsOk());
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "five", true), IsOk());
  store.reset();
  EXPECT_EQ(ReadBack(directory.path()), (Whole{true, "new", {"five"}}));
}

TEST_F(FileStoreFaultTest, ShortWritesAreGoneOnWith) {
  TempDir directory;
  auto store = Open(directory.path());
  ASSERT_THAT(SetFailpoints("store.short_write=EIO"), IsOk());  // any errno: each call writes half
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, NewSnapshot()), IsOk());
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "record", true), IsOk());
  // A write that stops in the middle of a record leaves nothing of it.
  ASSERT_THAT(SetFailpoints("store.short_write=EIO;store.write=ENOSPC@3"), IsOk());
  EXPECT_THAT(store->Append(SomeKey(), 1, kTtl, "lost", true),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("No space left")));
  ClearFailpoints();
  ASSERT_THAT(store->Append(SomeKey(), 1, kTtl, "kept", true), IsOk());
  store.reset();
  EXPECT_EQ(ReadBack(directory.path()), (Whole{true, NewSnapshot(), {"record", "kept"}}));
}

TEST_F(FileStoreFaultTest, ARecordThatCannotBeTakenBackClosesTheJournal) {
  TempDir directory;
  auto store = Open(directory.path());
  ASSERT_NO_FATAL_FAILURE(Prepare(*store, Changes()[0]));
  ASSERT_THAT(SetFailpoints("store.short_write=EIO;store.write=EIO@3;store.truncate=EIO"), IsOk());
  EXPECT_THAT(store->Append(SomeKey(), 1, kTtl, "lost", true),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("write")));
  ClearFailpoints();
  EXPECT_THAT(store->Append(SomeKey(), 1, kTtl, "behind it", true),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("until the next snapshot")));
  store.reset();
  EXPECT_EQ(ReadBack(directory.path()), Changes()[0].before);
}

TEST_F(FileStoreFaultTest, AFullDiskKeepsTheOldAndWakesTheSleeping) {
  TempDir parent;
  const std::string path = parent.File("disk");
  ASSERT_TRUE(std::filesystem::create_directory(path));
  if (mount("tmpfs", path.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  }
  absl::Cleanup unmount = [&path] { umount2(path.c_str(), MNT_DETACH); };
  auto store = Open(path);
  const std::string old(500'000, 'o');
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, old), IsOk());
  const auto full =
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("No space left on device"));
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, std::string(700'000, 'n')), full);
    EXPECT_EQ(CountTemporaries(path), 0);
  }
  std::vector<std::string> records;
  const std::string record(10'000, 'r');
  absl::Status status;
  while (records.size() < 200) {
    status = store->Append(SomeKey(), 1, kTtl, record, true);
    if (!status.ok()) break;
    records.push_back(record);
  }
  EXPECT_THAT(status, full);
  EXPECT_GT(records.size(), 10U);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store->Claim(SomeKey()));
  EXPECT_EQ(session.epoch, 2U);
  EXPECT_EQ(session.snapshot, old);
  EXPECT_EQ(session.journal, records);
  store.reset();
  EXPECT_EQ(ReadBack(path), (Whole{true, old, records}));
}

TEST_F(FileStoreFaultTest, AReadOnlyDiskIsSaidAndStillRead) {
  TempDir parent;
  const std::string path = parent.File("disk");
  ASSERT_TRUE(std::filesystem::create_directory(path));
  if (mount("tmpfs", path.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  }
  absl::Cleanup unmount = [&path] { umount2(path.c_str(), MNT_DETACH); };
  auto store = Open(path);
  ASSERT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, "old"), IsOk());
  ASSERT_EQ(mount("tmpfs", path.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0)
      << std::strerror(errno);
  const auto refused = StatusIs(absl::StatusCode::kInternal, HasSubstr("Read-only file system"));
  EXPECT_THAT(store->PutSnapshot(SomeKey(), 1, kTtl, "new"), refused);
  EXPECT_THAT(store->Append(SomeKey(), 1, kTtl, "new", true), refused);
  EXPECT_THAT(store->Remove(SomeKey(), 1), refused);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "old");
  EXPECT_THAT(session.journal, IsEmpty());
}

}  // namespace
}  // namespace gma::testing
