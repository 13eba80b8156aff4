#include "server/session/session_past.h"

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;

const std::vector<uint8_t> kRow = {1, 2, 3, 4};

// A turn that feeds `input` from where `point` stands, and draws `answer`.
void Turn(TokenLog& log, SessionPoint& point, const std::vector<int32_t>& input,
          const std::vector<int32_t>& answer) {
  log.BeginTurn(point, !answer.empty(), !input.empty());
  if (!input.empty()) point.answer_tail.clear();
  point.answer_open = !answer.empty();
  for (int32_t token : input) {
    point.fed += point.pending ? 1 : 0;
    point.pending = token;
    log.Put(point.fed, token, /*drawn=*/false);
  }
  for (int32_t token : answer) {
    point.fed += point.pending ? 1 : 0;
    point.pending = token;
    point.AddToTail(token);
    log.Put(point.fed, token, /*drawn=*/true);
  }
}

TEST(TokenLog, TellsWhereTheSessionStoodAtEachPosition) {
  TokenLog log(100);
  SessionPoint point;
  Turn(log, point, {10, 11}, {20, 21});
  Turn(log, point, {}, {22});
  Turn(log, point, {12}, {});
  EXPECT_EQ(log.begin(), 0);
  EXPECT_EQ(log.end(), 6);
  EXPECT_THAT(log.Tokens(0, 6), ElementsAre(10, 11, 20, 21, 22, 12));
  const std::vector<std::vector<int32_t>> tails = {{}, {}, {20}, {20, 21}, {20, 21, 22}, {}};
  for (int64_t context = 1; context <= 6; ++context) {
    const SessionPoint at = log.PointAt(context);
    EXPECT_EQ(at.fed, context - 1);
    EXPECT_EQ(at.pending, log.Tokens(context - 1, context)[0]);
    EXPECT_EQ(at.answer_open, context < 6) << context;
    EXPECT_EQ(at.answer_tail, tails[static_cast<size_t>(context - 1)]) << context;
  }
}

TEST(TokenLog, IsBoundedAndKnowsTheTailWhereverItBegins) {
  TokenLog log(10);
  SessionPoint point;
  std::vector<int32_t> answer;
  for (int32_t i = 0; i < 100; ++i) answer.push_back(i);
  Turn(log, point, {7}, answer);
  EXPECT_EQ(log.end(), 101);
  EXPECT_EQ(log.begin(), 91);
  const SessionPoint oldest = log.PointAt(92);
  EXPECT_EQ(oldest.pending, 90);
  EXPECT_EQ(oldest.answer_tail.size(), SessionPoint::kAnswerTail);
  EXPECT_EQ(oldest.answer_tail.back(), 90);
}

TEST(TokenLog, ForgetsWhatIsCutOff) {
  TokenLog log(100);
  SessionPoint point;
  Turn(log, point, {10, 11}, {20, 21});
  log.Truncate(3);
  point = log.PointAt(3);
  EXPECT_THAT(point.answer_tail, ElementsAre(20));
  Turn(log, point, {}, {30});
  EXPECT_THAT(log.Tokens(0, 4), ElementsAre(10, 11, 20, 30));
  EXPECT_THAT(log.PointAt(4).answer_tail, ElementsAre(20, 30));
  log.Truncate(0);
  EXPECT_EQ(log.end(), 0);
}

TEST(TokenLog, RestartsInTheMiddle) {
  TokenLog log(100);
  log.Restart({.fed = 50, .pending = 9, .answer_open = true, .answer_tail = {8, 9}});
  EXPECT_EQ(log.begin(), 50);
  EXPECT_EQ(log.end(), 51);
  const SessionPoint point = log.PointAt(51);
  EXPECT_TRUE(point.answer_open);
  EXPECT_THAT(point.answer_tail, ElementsAre(8, 9));
}

class PastTest : public ::testing::Test {
 protected:
  void Say(const std::vector<int32_t>& input, const std::vector<int32_t>& answer) {
    Turn(past.log(), point, input, answer);
  }
  RewindPlan Go(const RewindTarget& target) {
    auto plan = past.PlanRewind(target, point.context_tokens());
    EXPECT_THAT(plan, IsOk());
    if (!plan.ok()) return {};
    past.Rewound(target, *plan);
    point = plan->point;
    return *plan;
  }

  CheckpointTotals totals;
  SessionPast past{{.checkpoint_bytes = 12, .checkpoint_tokens = 4, .rewind_tokens = 100}, &totals};
  SessionPoint point;
};

TEST_F(PastTest, TheNearestCheckpointBeforeThePositionIsTheStart) {
  Say({1, 2, 3}, {4, 5});
  past.KeepAutomatic(point, kRow);  // fed 4, 5 pending
  Say({6}, {7, 8, 9});
  past.KeepAutomatic(point, kRow);  // fed 8
  RewindPlan plan = *past.PlanRewind(int64_t{7}, 9);
  EXPECT_EQ(plan.row_fed, 4);
  EXPECT_THAT(plan.replay, ElementsAre(5, 6, 7));
  EXPECT_EQ(plan.point.fed, 6);
  plan = *past.PlanRewind(int64_t{3}, 9);
  EXPECT_EQ(plan.row, nullptr);
  EXPECT_THAT(plan.replay, ElementsAre(1, 2, 3));
  plan = *past.PlanRewind(int64_t{5}, 9);  // where it was kept
  EXPECT_NE(plan.row, nullptr);
  EXPECT_THAT(plan.replay, IsEmpty());
  EXPECT_THAT(past.PlanRewind(int64_t{10}, 9), StatusIs(absl::StatusCode::kOutOfRange, _));
}

TEST_F(PastTest, AutomaticCheckpointsOfAnAbandonedWayGoAndNamedOnesStay) {
  Say({1, 2, 3}, {4, 5});
  past.KeepAutomatic(point, kRow);
  Say({6}, {7, 8});
  past.KeepAutomatic(point, kRow);
  ASSERT_THAT(past.Keep("late", point, kRow), IsOk());
  EXPECT_EQ(totals.count, 3);
  Go(int64_t{6});
  EXPECT_EQ(totals.count, 2);
  Say({16}, {17, 18, 19});
  // It leads nowhere on this way.
  EXPECT_EQ(past.PlanRewind(int64_t{10}, point.context_tokens())->row_fed, 4);
  Go(std::string("late"));
  EXPECT_EQ(point.context_tokens(), 8);
  EXPECT_EQ(past.OldestRewind(8), 8);
  EXPECT_THAT(past.PlanRewind(int64_t{7}, 8),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("reached is 8")));
  EXPECT_THAT(past.PlanRewind(int64_t{5}, 8), IsOk());  // both ways went through it
  Say({9}, {10});
  EXPECT_THAT(past.PlanRewind(int64_t{9}, 10)->replay, ElementsAre(8, 9));
}

TEST_F(PastTest, BytesAreBoundedByKind) {
  Say({1}, {2});
  past.KeepAutomatic(point, kRow);
  past.KeepAutomatic(point, kRow);  // there is one
  EXPECT_EQ(past.ring().bytes(), 4u);
  EXPECT_EQ((*past.Keep("", point, kRow))->name, "1");
  ASSERT_THAT(past.Keep("a", point, kRow), IsOk());
  ASSERT_THAT(past.Keep("b", point, kRow), IsOk());  // the automatic one goes
  ASSERT_THAT(past.Keep("c", point, kRow), IsOk());  // the numbered one goes
  EXPECT_THAT(past.Keep("d", point, kRow), StatusIs(absl::StatusCode::kResourceExhausted,
                                                    HasSubstr("4 bytes and the session's others")));
  EXPECT_THAT(past.Keep("b", point, kRow), IsOk());
  EXPECT_EQ(past.ring().bytes(), 12u);
  EXPECT_EQ(totals.bytes, 12);
  EXPECT_FALSE(past.WantsAutomatic(4));
  EXPECT_TRUE(past.WantsAutomatic(5));
}

TEST_F(PastTest, ACopySharesTheRows) {
  Say({1}, {2});
  ASSERT_THAT(past.Keep("a", point, kRow), IsOk());
  {
    SessionPast copy = past;
    EXPECT_EQ(totals.count, 1);
    ASSERT_THAT(copy.Keep("b", point, kRow), IsOk());
    EXPECT_EQ(totals.count, 2);
    EXPECT_EQ(past.ring().Find("b"), nullptr);
  }
  EXPECT_EQ(totals.count, 1);
  EXPECT_NE(past.ring().Find("a"), nullptr);
}

// What is kept of a session goes on as the session itself would.
TEST_F(PastTest, IsTheSameAfterItWasAnImage) {
  Say({1, 2, 3}, {4, 5});
  ASSERT_THAT(past.Keep("here", point, kRow), IsOk());
  ASSERT_THAT(past.Keep("", point, kRow), IsOk());
  Say({6}, {7, 8, 9});
  past.KeepAutomatic(point, kRow);
  const PastImage image = past.Image();
  EXPECT_EQ(image.checkpoints.size(), 2u);  // without the automatic one
  EXPECT_EQ(totals.bytes, 12);

  SessionPast other({.checkpoint_bytes = 12, .checkpoint_tokens = 4, .rewind_tokens = 100},
                    &totals);
  other.Restore(image, point);
  EXPECT_EQ(totals.bytes, 20);
  for (const RewindTarget& target : {RewindTarget("here"), RewindTarget("1"), RewindTarget(7)}) {
    const auto one = past.PlanRewind(target, 9), two = other.PlanRewind(target, 9);
    ASSERT_THAT(one, IsOk());
    ASSERT_THAT(two, IsOk());
    EXPECT_EQ(one->row_fed, two->row_fed);
    EXPECT_EQ(one->replay, two->replay);
    EXPECT_EQ(one->point.fed, two->point.fed);
    EXPECT_EQ(one->row->bytes().data(), two->row->bytes().data());  // the rows are shared
  }
  const auto next = other.Keep("", point, kRow);
  ASSERT_THAT(next, IsOk());
  EXPECT_EQ((*next)->name, "2");  // no number is given twice
}

TEST_F(PastTest, AnImageIsRestoredAsFarAsTheLimitsGo) {
  Say({1, 2, 3}, {4, 5});
  ASSERT_THAT(past.Keep("", point, kRow), IsOk());
  ASSERT_THAT(past.Keep("here", point, kRow), IsOk());
  ASSERT_THAT(past.Keep("", point, kRow), IsOk());
  SessionPast small({.checkpoint_bytes = 8, .checkpoint_tokens = 0, .rewind_tokens = 2}, &totals);
  small.Restore(past.Image(), point);
  EXPECT_EQ(small.ring().Find("1"), nullptr);
  EXPECT_NE(small.ring().Find("here"), nullptr);
  EXPECT_NE(small.ring().Find("2"), nullptr);
  SessionPast nothing;
  nothing.Restore(past.Image(), point);
  EXPECT_TRUE(nothing.ring().all().empty());
  EXPECT_EQ(nothing.log().end(), 0);
  // Of an image without a past, it is known where the session stands.
  SessionPast fresh({.checkpoint_bytes = 8, .checkpoint_tokens = 0, .rewind_tokens = 2}, &totals);
  fresh.Restore({}, point);
  EXPECT_EQ(fresh.log().begin(), 4);
  EXPECT_EQ(fresh.log().end(), 5);
}

}  // namespace
}  // namespace gma
