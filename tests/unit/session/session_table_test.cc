#include "server/session/session_table.h"

#include <memory>
#include <optional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_decoder.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;

constexpr absl::Duration kStart = absl::Seconds(1000);

class SessionTableTest : public ::testing::Test {
 protected:
  SessionTableTest()
      : decoder(1, 1),
        pool(*StatePool::Create(decoder.state_layout(), 8)),
        table({.max_sessions_per_owner = 4}) {}

  Session& Open(std::string_view owner, absl::Duration ttl = absl::Seconds(10)) {
    return table.Insert(table.OwnerOf(owner), *pool->Acquire(), ttl, kStart);
  }
  int64_t Expire(absl::Duration now) {
    return table.Expire(now, [](const ExpiredSession&) {});
  }

  testing::FakeDecoder decoder;
  std::unique_ptr<StatePool> pool;
  SessionTable table;
};

TEST_F(SessionTableTest, FindsTheCallersOwnAndNothingElse) {
  const Session& mine = Open("alice");
  GMA_ASSERT_OK_AND_ASSIGN(const Session* const found, table.Find("alice", mine.id(), kStart));
  EXPECT_EQ(found, &mine);
  const absl::Status foreign = table.Find("bob", mine.id(), kStart).status();
  EXPECT_THAT(foreign, StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
  const SessionId never = SessionId::Random();
  EXPECT_THAT(table.Find("alice", never, kStart),
              StatusIs(absl::StatusCode::kNotFound, "session " + never.Hex() + " is unknown"));
}

TEST_F(SessionTableTest, RemembersHowASessionEnded) {
  const SessionId closed = Open("alice").id(), lost = Open("alice").id();
  table.Erase(**table.Find("alice", closed, kStart), SessionEnd::kClosed, kStart);
  table.Erase(**table.Find("alice", lost, kStart), SessionEnd::kLost, kStart);
  const absl::Duration later = kStart + absl::Seconds(7);
  EXPECT_THAT(table.Find("alice", closed, later),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("was closed 7 s ago")));
  EXPECT_THAT(table.Find("alice", lost, later),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("lost its state")));
  // To anybody else it never was.
  EXPECT_THAT(table.Find("bob", lost, later),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
}

TEST_F(SessionTableTest, RememberedEndsAreBounded) {
  const SessionId first = Open("alice").id();
  table.Erase(**table.Find("alice", first, kStart), SessionEnd::kClosed, kStart);
  for (size_t i = 0; i < SessionTable::kRememberedEnds; ++i) {
    table.Erase(Open("alice"), SessionEnd::kClosed, kStart);
  }
  EXPECT_THAT(table.OwnerOf("alice").ended, SizeIs(SessionTable::kRememberedEnds));
  EXPECT_THAT(table.Find("alice", first, kStart),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("unknown")));
}

TEST_F(SessionTableTest, ExpiryCountsIdleTimeOnly) {
  const SessionId idle = Open("alice").id();
  Session& busy = Open("alice");
  table.BeginTurn(busy, TurnKind::kAnswer, true);
  EXPECT_EQ(table.NextExpiry(), kStart + absl::Seconds(10));
  EXPECT_EQ(Expire(kStart + absl::Seconds(9)), 0);
  EXPECT_EQ(Expire(kStart + absl::Seconds(10)), 1);
  EXPECT_THAT(
      table.Find("alice", idle, kStart + absl::Seconds(12)),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired 2 s ago: it was idle for 10 s")));
  EXPECT_EQ(table.NextExpiry(), absl::InfiniteDuration());
  table.EndTurn(busy, kStart + absl::Seconds(20));
  EXPECT_EQ(table.NextExpiry(), kStart + absl::Seconds(30));
  EXPECT_EQ(pool->used(), 1);
}

TEST_F(SessionTableTest, SessionsExpireInOrderAndRowsComeBack) {
  Open("alice", absl::Seconds(30));
  Open("bob", absl::Seconds(10));
  Open("alice", absl::Seconds(20));
  std::vector<uint64_t> order;  // numbers rise with the order of opening
  table.Expire(kStart + absl::Seconds(30), [&](const ExpiredSession& session) {
    order.push_back(session.number);
    EXPECT_EQ(session.idle, absl::Seconds(30));
  });
  EXPECT_THAT(order, ::testing::ElementsAre(1, 2, 0));
  EXPECT_EQ(pool->used(), 0);
  EXPECT_EQ(table.count(SessionTier::kPool), 0);
}

TEST_F(SessionTableTest, TheQuotaCountsSessionsAndPrivateRows) {
  Owner& alice = table.OwnerOf("alice");
  Open("alice");
  std::unique_ptr<Session> hidden = table.InsertPrivate(alice, *pool->Acquire(), kStart);
  EXPECT_THAT(table.CheckQuota(alice, 2), IsOk());
  EXPECT_THAT(table.CheckQuota(alice, 3),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 4")));
  EXPECT_THAT(table.CheckQuota(table.OwnerOf("bob"), 4), IsOk());
  EXPECT_THAT(table.List("alice", std::nullopt, 10), SizeIs(1));
  table.ErasePrivate(std::move(hidden));
  EXPECT_THAT(table.CheckQuota(alice, 3), IsOk());
  EXPECT_EQ(pool->used(), 1);
}

TEST_F(SessionTableTest, OwnersHaveDistinctNumbers) {
  const uint32_t alice = table.OwnerOf("alice").number, bob = table.OwnerOf("bob").number;
  EXPECT_NE(alice, bob);
  EXPECT_EQ(table.OwnerOf("alice").number, alice);
}

}  // namespace
}  // namespace gma
