// The contract of server/store/session_store.h, held against every store there is.
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/file_store.h"
#include "server/store/redis_store.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/store/store_contract.h"

namespace gma::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kTtl = absl::Hours(1);

class FileSetUp final : public StoreSetUp {
 public:
  FileSetUp() { Restart(); }
  SessionStore& store() override { return *store_; }
  SessionStore& other() override { return *store_; }
  void Restart() override {
    store_.reset();
    auto store = FileStore::Open({directory_.path(), 0}, clock);
    GMA_CHECK(store.ok());
    store_ = *std::move(store);
  }

 private:
  TempDir directory_;
  std::unique_ptr<FileStore> store_;
};

class RedisSetUp final : public StoreSetUp {
 public:
  explicit RedisSetUp(std::unique_ptr<RedisServer> server) : server_(std::move(server)) {
    Restart();
  }
  SessionStore& store() override { return *store_; }
  SessionStore& other() override { return *other_; }
  void Restart() override {
    store_ = Open();
    other_ = Open();
  }

 private:
  std::unique_ptr<RedisStore> Open() {
    auto store = RedisStore::Create({server_->unix_address(), absl::Seconds(10)}, clock);
    GMA_CHECK(store.ok());
    return *std::move(store);
  }

  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisStore> store_, other_;
};

std::unique_ptr<StoreSetUp> MakeRedis() {
  auto server = RedisServer::Start();
  return server == nullptr ? nullptr : std::make_unique<RedisSetUp>(std::move(server));
}

class StoreContractTest : public ::testing::TestWithParam<StoreCase> {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kError);
    set_up_ = GetParam().make();
    if (set_up_ == nullptr) GTEST_SKIP() << GetParam().name << " is not on this machine";
  }
  SessionStore& store() { return set_up_->store(); }
  SessionStore& other() { return set_up_->other(); }

  std::unique_ptr<StoreSetUp> set_up_;
};

TEST_P(StoreContractTest, WhatIsNotThereIsNotFound) {
  EXPECT_THAT(store().Claim(SomeKey()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(SomeKey().id)));
  EXPECT_THAT(store().Remove(SomeKey(), 1), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const auto listed, store().List(SomeKey().owner, "", 10));
  EXPECT_THAT(listed, IsEmpty());
}

TEST_P(StoreContractTest, ASnapshotAndTheRecordsSinceComeBackAfterARestart) {
  const std::string snapshot("\0 any \xff bytes \r\n", 16);
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, "older"), IsOk());
  ASSERT_THAT(store().Append(SomeKey(), 1, kTtl, "before", false), IsOk());
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, snapshot), IsOk());
  ASSERT_THAT(store().Append(SomeKey(), 1, kTtl, std::string("a\0b", 3), true), IsOk());
  ASSERT_THAT(store().Append(SomeKey(), 1, kTtl, "", false), IsOk());
  ASSERT_THAT(store().Append(SomeKey(), 1, kTtl, "third", false), IsOk());
  ASSERT_THAT(store().Sync(), IsOk());
  set_up_->Restart();
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store().Claim(SomeKey()));
  EXPECT_EQ(session.epoch, 2U);
  EXPECT_EQ(session.snapshot, snapshot);
  EXPECT_THAT(session.journal, ElementsAre(std::string("a\0b", 3), "", "third"));
}

TEST_P(StoreContractTest, AJournalNeedsNoSnapshot) {
  ASSERT_THAT(store().Append(SomeKey(), 5, kTtl, "one", true), IsOk());
  set_up_->Restart();
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store().Claim(SomeKey()));
  EXPECT_EQ(session.epoch, 6U);
  EXPECT_EQ(session.snapshot, "");
  EXPECT_THAT(session.journal, ElementsAre("one"));
  ASSERT_THAT(store().Append(SomeKey(), 6, kTtl, "two", true), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession again, store().Claim(SomeKey()));
  EXPECT_THAT(again.journal, ElementsAre("one", "two"));
}

TEST_P(StoreContractTest, EachClaimRaisesTheEpochForGood) {
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  for (uint64_t epoch = 2; epoch < 6; ++epoch) {
    GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, other().Claim(SomeKey()));
    EXPECT_EQ(session.epoch, epoch);
    set_up_->Restart();
  }
}

TEST_P(StoreContractTest, WhoWasFrozenWhileAnotherClaimedCanWriteNothing) {
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, "old"), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, other().Claim(SomeKey()));
  ASSERT_THAT(other().Append(SomeKey(), session.epoch, kTtl, "new", true), IsOk());
  for (const absl::Status& status :
       {store().PutSnapshot(SomeKey(), 1, kTtl, "stale"),
        store().Append(SomeKey(), 1, kTtl, "stale", true), store().Remove(SomeKey(), 1)}) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, HasSubstr("epoch 2")));
  }
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession after, other().Claim(SomeKey()));
  EXPECT_EQ(after.snapshot, "old");
  EXPECT_THAT(after.journal, ElementsAre("new"));
}

TEST_P(StoreContractTest, RemovedIsGone) {
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 3, kTtl, "x"), IsOk());
  ASSERT_THAT(store().Append(SomeKey(), 3, kTtl, "y", false), IsOk());
  ASSERT_THAT(store().Remove(SomeKey(), 3), IsOk());
  EXPECT_THAT(store().Claim(SomeKey()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
  set_up_->Restart();
  EXPECT_THAT(store().Claim(SomeKey()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
  ASSERT_THAT(store().Append(SomeKey(), 3, kTtl, "z", false), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store().Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "");
  EXPECT_THAT(session.journal, ElementsAre("z"));
}

TEST_P(StoreContractTest, AnExpiredSessionSaysWhen) {
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, "x"), IsOk());
  set_up_->clock.Advance(absl::Minutes(30));
  ASSERT_THAT(store().Append(SomeKey(), 1, kTtl, "y", false), IsOk());
  set_up_->clock.Advance(absl::Minutes(45));
  ASSERT_THAT(store().Claim(SomeKey()), IsOk());  // idle for less than its ttl; and used again
  const absl::Time used = set_up_->clock.Now();
  set_up_->clock.Advance(absl::Minutes(62));
  const std::string when = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", used + kTtl, absl::UTCTimeZone());
  const auto expired =
      StatusIs(absl::StatusCode::kNotFound,
               HasSubstr(absl::StrCat("expired at ", when, ", it was idle for 3600 s")));
  EXPECT_THAT(store().Claim(SomeKey()), expired);
  store().Expire(set_up_->clock.Now());
  GMA_ASSERT_OK_AND_ASSIGN(const auto listed, store().List(SomeKey().owner, "", 10));
  EXPECT_THAT(listed, IsEmpty());
  set_up_->Restart();
  EXPECT_THAT(store().Claim(SomeKey()), expired);
  EXPECT_THAT(store().Append(SomeKey(), 2, kTtl, "z", false), expired);
  EXPECT_THAT(store().PutSnapshot(SomeKey(), 1, kTtl, "stale"),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("epoch 2")));
  ASSERT_THAT(store().PutSnapshot(SomeKey(), 2, kTtl, "back"), IsOk());
  GMA_ASSERT_OK_AND_ASSIGN(const StoredSession session, store().Claim(SomeKey()));
  EXPECT_EQ(session.snapshot, "back");
  EXPECT_THAT(session.journal, IsEmpty());
}

TEST_P(StoreContractTest, ListGoesThroughAnOwnersSessionsInOrder) {
  for (const uint64_t id : {5, 1, 4, 2, 3}) {
    set_up_->clock.Advance(absl::Seconds(1));
    ASSERT_THAT(store().PutSnapshot(SomeKey(id), 1, kTtl, std::string(100 * id, 'x')), IsOk());
  }
  ASSERT_THAT(store().PutSnapshot(SomeKey(9, 2), 1, kTtl, "another's"), IsOk());
  ASSERT_THAT(store().Append(SomeKey(3), 1, 2 * kTtl, std::string(50, 'y'), false), IsOk());
  std::vector<std::string> ids;
  std::string after;
  while (true) {
    GMA_ASSERT_OK_AND_ASSIGN(const auto page, store().List(SomeKey().owner, after, 2));
    EXPECT_LE(page.size(), 2U);
    if (page.empty()) break;
    for (const StoredEntry& entry : page) ids.push_back(entry.id);
    after = ids.back();
  }
  EXPECT_THAT(ids,
              ElementsAre(StoreName(1), StoreName(2), StoreName(3), StoreName(4), StoreName(5)));
  GMA_ASSERT_OK_AND_ASSIGN(const auto third, store().List(SomeKey().owner, StoreName(2), 1));
  ASSERT_EQ(third.size(), 1U);
  EXPECT_EQ(third[0].ttl, 2 * kTtl);
  EXPECT_EQ(third[0].saved_at, set_up_->clock.Now());
  EXPECT_GE(third[0].bytes, 350);
  EXPECT_LT(third[0].bytes, 600);
}

TEST_P(StoreContractTest, NamesFromOutsideAreHexAndNothingElse) {
  const std::string good = StoreName(1);
  for (const std::string& bad :
       {std::string(), std::string("../../../../etc/passwd"), std::string(32, 'G'),
        std::string(32, 'A'), good + "0", std::string(31, '0') + "/", std::string(32, '\0')}) {
    const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hex"));
    for (const StoreKey& key : {StoreKey{bad, good}, StoreKey{good, bad}}) {
      EXPECT_THAT(store().Claim(key), refused);
      EXPECT_THAT(store().PutSnapshot(key, 1, kTtl, "x"), refused);
      EXPECT_THAT(store().Append(key, 1, kTtl, "x", false), refused);
      EXPECT_THAT(store().Remove(key, 1), refused);
    }
    EXPECT_THAT(store().List(bad, "", 1), refused);
    if (!bad.empty()) {
      EXPECT_THAT(store().List(good, bad, 1), refused);
    }
  }
  EXPECT_THAT(store().PutSnapshot(SomeKey(), 0, kTtl, "x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("epoch")));
}

// What a store is, in a map.
struct Model {
  struct Session {
    uint64_t epoch = 0;
    std::string snapshot;
    std::vector<std::string> journal;
  };
  std::map<std::string, Session> sessions;
  std::map<std::string, uint64_t> last_epoch;  // also of what was removed
};

TEST_P(StoreContractTest, TenThousandRandomCallsDoAsAMapDoes) {
  Model model;
  std::mt19937 random(20261123);
  for (int i = 0; i < 10'000; ++i) {
    SessionStore& store = random() % 2 == 0 ? set_up_->store() : set_up_->other();
    const StoreKey key = SomeKey(random() % 12);
    const auto found = model.sessions.find(key.id);
    const bool there = found != model.sessions.end();
    uint64_t& last = model.last_epoch.try_emplace(key.id, 1).first->second;
    const bool stale = there && last > 1 && random() % 4 == 0;
    const uint64_t epoch = stale ? last - 1 : last;
    const std::string bytes(random() % 300, static_cast<char>(random()));
    const absl::StatusCode expected = stale ? absl::StatusCode::kAborted : absl::StatusCode::kOk;
    switch (random() % 8) {
      case 0: {
        const auto session = store.Claim(key);
        ASSERT_EQ(session.ok(), there) << i << session.status();
        if (!there) break;
        last = ++found->second.epoch;
        ASSERT_EQ(session->epoch, last) << i;
        ASSERT_EQ(session->snapshot, found->second.snapshot) << i;
        ASSERT_EQ(session->journal, found->second.journal) << i;
        break;
      }
      case 1:
        ASSERT_EQ(store.PutSnapshot(key, epoch, kTtl, bytes).code(), expected) << i;
        if (!stale) model.sessions[key.id] = {epoch, bytes, {}};
        break;
      case 2: {
        if (random() % 4 != 0) break;
        ASSERT_EQ(store.Remove(key, epoch).code(), expected) << i;
        if (!stale) model.sessions.erase(key.id);
        break;
      }
      case 3: {
        const auto listed = store.List(key.owner, "", 100);
        ASSERT_THAT(listed, IsOk()) << i;
        std::vector<std::string> ids, expected_ids;
        for (const StoredEntry& entry : *listed) ids.push_back(entry.id);
        for (const auto& [id, session] : model.sessions) expected_ids.push_back(id);
        ASSERT_EQ(ids, expected_ids) << i;
        break;
      }
      case 4:
        if (random() % 20 == 0) set_up_->Restart();
        break;
      default:
        ASSERT_EQ(store.Append(key, epoch, kTtl, bytes, random() % 8 == 0).code(), expected) << i;
        if (!stale) {
          Model::Session& session = model.sessions[key.id];
          session.epoch = epoch;
          session.journal.push_back(bytes);
        }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreContractTest,
                         ::testing::Values(StoreCase{"File",
                                                     [] { return std::make_unique<FileSetUp>(); }},
                                           StoreCase{"Redis", MakeRedis}),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace gma::testing
