// What a Redis that is down, slow, full or wrong does to the store.
#include "server/store/redis_store.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kTtl = absl::Hours(1);
constexpr absl::Duration kTimeout = absl::Milliseconds(300);

const auto kUnavailable = StatusIs(absl::StatusCode::kUnavailable, HasSubstr("redis: "));

std::unique_ptr<RedisStore> Connect(const std::string& address, const Clock& clock,
                                    absl::Duration timeout = kTimeout) {
  auto store = RedisStore::Create({address, timeout}, clock);
  GMA_CHECK(store.ok());
  return *std::move(store);
}

// Every call once, on one session.
std::vector<absl::Status> AllCalls(SessionStore& store) {
  return {store.Claim(SomeKey()).status(), store.PutSnapshot(SomeKey(), 9, kTtl, "snapshot"),
          store.Append(SomeKey(), 9, kTtl, "record", true), store.Remove(SomeKey(), 9),
          store.List(SomeKey().owner, "", 10).status()};
}

class RedisStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kError);
    server_ = RedisServer::Start();
    if (server_ == nullptr) GTEST_SKIP() << "no redis-server on this machine";
    store_ = Connect(server_->unix_address(), clock_);
  }
  // Whether a call succeeds before long, as it does once the pause after a failure is over.
  bool Recovers() {
    for (int i = 0; i < 200; ++i) {
      if (store_->PutSnapshot(SomeKey(7), 1, kTtl, "x").ok()) return true;
      absl::SleepFor(absl::Milliseconds(50));
    }
    return false;
  }
  std::string Hash(const StoreKey& key) const {
    return absl::StrCat("gma:{", key.owner, "}:", key.id);
  }
  // The key of the present snapshot.
  std::string Blob(const StoreKey& key) const {
    return absl::StrCat(Hash(key), ":", server_->Command({"HGET", Hash(key), "snapshot"}));
  }

  RealClock clock_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisStore> store_;
};

TEST_F(RedisStoreTest, KilledIsUnavailableAndFoundAgain) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Kill();
  for (const absl::Status& status : AllCalls(*store_)) EXPECT_THAT(status, kUnavailable);
  server_->Restart();
  EXPECT_TRUE(Recovers());
}

TEST_F(RedisStoreTest, AConnectionThatWentWithARestartIsNotUsed) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Restart();
  // The first call already: the connection is known to be closed, the script to be forgotten.
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"SCRIPT", "FLUSH"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), IsOk());
}

TEST_F(RedisStoreTest, FrozenEndsInTimeAndItsLateAnswersAreNobodys) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Freeze();
  const absl::Time start = absl::Now();
  for (const absl::Status& status : AllCalls(*store_)) EXPECT_THAT(status, kUnavailable);
  const absl::Duration took = absl::Now() - start;
  server_->Thaw();
  std::printf("5 calls on a frozen server, timeout %s: %s\n",
              absl::FormatDuration(kTimeout).c_str(), absl::FormatDuration(took).c_str());
  EXPECT_LT(took, 60 * kTimeout);  // they end; how exactly is printed
  ASSERT_TRUE(Recovers());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 20, kTtl, "after"), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "after");
}

TEST_F(RedisStoreTest, TheAnswerToACallGivenUpIsNotTakenForTheNextOnes) {
  store_ = Connect(server_->unix_address(), clock_, absl::Seconds(1));
  ASSERT_THAT(store_->PutSnapshot(SomeKey(1), 1, kTtl, "one"), IsOk());
  ASSERT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "two"), IsOk());
  ASSERT_THAT(store_->Claim(SomeKey(2)), IsOk());
  server_->Freeze();
  EXPECT_THAT(store_->Claim(SomeKey(1)), kUnavailable);
  std::thread thaw([this] {
    absl::SleepFor(absl::Milliseconds(100));
    server_->Thaw();
  });
  // For a while calls are refused without being made; the first that is made has its own answer.
  absl::StatusOr<StoredSession> session = store_->Claim(SomeKey(2));
  for (int i = 0; i < 200 && absl::IsUnavailable(session.status()); ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    session = store_->Claim(SomeKey(2));
  }
  thaw.join();
  ASSERT_THAT(session, IsOk());
  EXPECT_EQ(session->snapshot, "two");
  EXPECT_EQ(session->epoch, 3U);
}

TEST_F(RedisStoreTest, AServerThatHangsHoldsUpOneCallAndNotEach) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Freeze();
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
  int refused = 0;  // without a wait, which no clock has to show: none is connected to meanwhile
  const absl::Time start = absl::Now();
  while (absl::Now() - start < kTimeout / 2) {
    EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
    ++refused;
  }
  EXPECT_GT(refused, 1);
  server_->Thaw();
  EXPECT_TRUE(Recovers());
}

TEST_F(RedisStoreTest, VerifyTellsWhoseTheSessionIs) {
  EXPECT_THAT(store_->Verify(SomeKey(), 1), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no")));
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  EXPECT_THAT(store_->Verify(SomeKey(), 1), IsOk());
  const auto other = Connect(server_->unix_address(), clock_);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, other->Claim(SomeKey()));
  EXPECT_THAT(store_->Verify(SomeKey(), 1),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("epoch 2")));
  EXPECT_THAT(other->Verify(SomeKey(), session.epoch), IsOk());
  ASSERT_THAT(other->Remove(SomeKey(), session.epoch), IsOk());
  EXPECT_EQ(store_->Verify(SomeKey(), 1).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(other->Verify(SomeKey(), session.epoch).code(), absl::StatusCode::kNotFound);
}

TEST_F(RedisStoreTest, PausedEndsInTimeAndRecovers) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"CLIENT", "PAUSE", "1500", "WRITE"});
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
  EXPECT_TRUE(Recovers());
}

TEST_F(RedisStoreTest, FullIsSaidAndTheSleepingStillWakeAndGo) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, std::string(300'000, 's')), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "r", true), IsOk());
  server_->Command({"CONFIG", "SET", "maxmemory", "1mb"});
  const auto full = StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("OOM"));
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "smaller"), full);
  EXPECT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "new"), full);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "s", true), full);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, std::string(300'000, 's'));
  EXPECT_THAT(session.journal, ElementsAre("r"));
  EXPECT_THAT(store_->List(SomeKey().owner, "", 10), IsOk());
  EXPECT_THAT(store_->Remove(SomeKey(), session.epoch), IsOk());
  server_->Command({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(2), 1, kTtl, "new"), IsOk());
}

TEST_F(RedisStoreTest, AReadOnlyReplicaIsUnavailable) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  server_->Command({"REPLICAOF", "127.0.0.1", "1"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), kUnavailable);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), kUnavailable);
  EXPECT_THAT(store_->Claim(SomeKey()), kUnavailable);
  EXPECT_THAT(store_->Remove(SomeKey(), 1), kUnavailable);
  server_->Command({"REPLICAOF", "NO", "ONE"});
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "y"), IsOk());
}

TEST_F(RedisStoreTest, AKeyOfAWrongTypeIsAnErrorAndNoCrash) {
  const std::string hash = Hash(SomeKey());
  for (std::string key : {hash, std::string(), hash + ":journal",
                          absl::StrCat("gma:{", SomeKey().owner, "}:index")}) {
    server_->Command({"FLUSHALL"});
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
    if (key.empty()) key = Blob(SomeKey());
    server_->Command({"DEL", key});
    server_->Command({"XADD", key, "*", "a", "b"});
    int errors = 0;
    for (const absl::Status& status : AllCalls(*store_)) {
      if (status.ok() || status.code() == absl::StatusCode::kNotFound) continue;
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kInternal, HasSubstr("WRONGTYPE"))) << key;
      ++errors;
    }
    EXPECT_GT(errors, 0) << key;
  }
}

TEST_F(RedisStoreTest, GarbageInTheFieldsIsAnErrorAndNoCrash) {
  for (const char* field : {"epoch", "saved_at", "ttl", "snapshot", "records", "gone",
                            "snapshot_bytes", "journal_bytes"}) {
    for (const char* garbage : {"", "x", "-5", "1e400", "nan", "99999999999999999999", "\xff"}) {
      server_->Command({"FLUSHALL"});
      ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
      server_->Command({"HSET", Hash(SomeKey()), field, garbage});
      for (const absl::Status& status : AllCalls(*store_)) {
        EXPECT_THAT(status.code(),
                    ::testing::AnyOf(absl::StatusCode::kOk, absl::StatusCode::kInternal,
                                     absl::StatusCode::kNotFound, absl::StatusCode::kAborted,
                                     absl::StatusCode::kDataLoss))
            << field << " " << garbage << " " << status;
      }
    }
  }
}

TEST_F(RedisStoreTest, ContentThatIsMissingIsLossAndNotAnEmptySession) {
  for (const bool snapshot : {true, false}) {
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
    ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), IsOk());
    server_->Command({"DEL", snapshot ? Blob(SomeKey()) : Hash(SomeKey()) + ":journal"});
    const auto lost = StatusIs(absl::StatusCode::kDataLoss, HasSubstr("missing in redis"));
    EXPECT_THAT(store_->Claim(SomeKey()), lost);
    EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "z", true), lost);
  }
}

TEST_F(RedisStoreTest, AFlippedBitInTheBlobPassesThroughToTheSeal) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "abc"), IsOk());
  server_->Command({"SETRANGE", Blob(SomeKey()), "1", "c"});
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store_->Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "acc");
}

TEST_F(RedisStoreTest, WhoSleptThroughARemovalCannotBringTheSessionBack) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  const auto other = Connect(server_->unix_address(), clock_);
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, other->Claim(SomeKey()));
  ASSERT_THAT(other->Remove(SomeKey(), session.epoch), IsOk());
  const auto fenced = StatusIs(absl::StatusCode::kAborted, HasSubstr("epoch 2"));
  EXPECT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "stale"), fenced);
  EXPECT_THAT(store_->Append(SomeKey(), 1, kTtl, "stale", false), fenced);
  EXPECT_THAT(store_->Claim(SomeKey()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no")));
}

TEST_F(RedisStoreTest, NoSnapshotOutlivesTheNext) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(store_->PutSnapshot(SomeKey(), 2, kTtl, "x"), IsOk());
    ASSERT_THAT(store_->Append(SomeKey(), 2, kTtl, "y", true), IsOk());
    EXPECT_EQ(store_->PutSnapshot(SomeKey(), 1, kTtl, "stale").code(), absl::StatusCode::kAborted);
    EXPECT_EQ(server_->Command({"DBSIZE"}), "4");  // hash, snapshot, journal, index
  }
  ASSERT_THAT(store_->Remove(SomeKey(), 2), IsOk());
  EXPECT_EQ(server_->Command({"DBSIZE"}), "1");  // the hash with the epoch
}

TEST_F(RedisStoreTest, KeysExpireContentFirst) {
  ASSERT_THAT(store_->PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  ASSERT_THAT(store_->Append(SomeKey(), 1, kTtl, "y", true), IsOk());
  const auto life = [this](const std::string& key) {
    return absl::Milliseconds(std::stoll(server_->Command({"PTTL", key})));
  };
  const std::string hash = Hash(SomeKey());
  for (const std::string& key : {Blob(SomeKey()), hash + ":journal"}) {
    EXPECT_GT(life(key), kTtl + absl::Minutes(1));
    EXPECT_LE(life(key), kTtl + absl::Minutes(2));
  }
  for (const std::string& key : {hash, absl::StrCat("gma:{", SomeKey().owner, "}:index")}) {
    EXPECT_GT(life(key), kTtl + absl::Hours(7 * 24) - absl::Minutes(1));
    EXPECT_LE(life(key), kTtl + absl::Hours(7 * 24));
  }
}

}  // namespace
}  // namespace gma::testing
