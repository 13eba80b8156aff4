#include "server/scheduler/scheduler.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gma {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

MATCHER_P2(Row, view, tokens, "") {
  return arg.view == static_cast<size_t>(view) && arg.tokens == tokens;
}

RowView Decoding(uint64_t turn, int64_t steps_waited = 0) {
  return {.turn = turn,
          .owner = 0,
          .decoding = true,
          .tokens_to_feed = 1,
          .priority = 0,
          .steps_waited = steps_waited};
}

RowView Prefill(uint64_t turn, uint32_t owner, int64_t tokens, int32_t priority = 0,
                int64_t steps_waited = 0) {
  return {.turn = turn,
          .owner = owner,
          .decoding = false,
          .tokens_to_feed = tokens,
          .priority = priority,
          .steps_waited = steps_waited};
}

TEST(SchedulerTest, NoViewsGiveAnEmptyPlan) {
  FairShare share;
  EXPECT_THAT(PlanStep({}, {.max_batch_rows = 4, .max_step_tokens = 4}, share).rows, IsEmpty());
}

TEST(SchedulerTest, DecodingRowsComeFirstAndPrefillTakesTheRest) {
  FairShare share;
  const std::vector<RowView> views = {Prefill(1, 0, 100), Decoding(2), Decoding(3)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 8, .max_step_tokens = 16}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 1), Row(2, 1), Row(0, 14)));
}

TEST(SchedulerTest, APromptThatFitsIsFedWhole) {
  FairShare share;
  const std::vector<RowView> views = {Prefill(1, 0, 5), Prefill(2, 0, 6)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 8, .max_step_tokens = 16}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(0, 5), Row(1, 6)));
}

TEST(SchedulerTest, InsideAnOwnerPriorityThenOrderOfAcceptance) {
  FairShare share;
  const std::vector<RowView> views = {Prefill(1, 0, 8), Prefill(2, 0, 8), Prefill(3, 0, 8, 5)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 8, .max_step_tokens = 12}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(0, 4), Row(2, 8)));
}

TEST(SchedulerTest, OwnersShareAStepWhateverTheNumberOfTheirPrompts) {
  FairShare share;
  // Owner 0 has three long prompts, owner 1 has one.
  const std::vector<RowView> views = {Prefill(1, 0, 100), Prefill(2, 0, 100), Prefill(3, 0, 100),
                                      Prefill(4, 1, 100)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 8, .max_step_tokens = 16}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(0, 8), Row(3, 8)));
}

TEST(SchedulerTest, AnOwnerCutOffByTheEndOfAStepGoesOnWithWhatItHadLeft) {
  FairShare share;
  const std::vector<RowView> views = {Prefill(1, 0, 100), Prefill(2, 1, 100), Prefill(3, 2, 100)};
  const SchedulerLimits limits = {.max_batch_rows = 8, .max_step_tokens = 10};  // quantum 2
  std::vector<int64_t> fed(3);
  for (int step = 0; step < 3; ++step) {
    for (const PlannedRow& row : PlanStep(views, limits, share).rows) fed[row.view] += row.tokens;
  }
  EXPECT_THAT(fed, ElementsAre(10, 10, 10));
}

TEST(SchedulerTest, TokensAnOwnerCannotUseGoToOthers) {
  FairShare share;
  const std::vector<RowView> views = {Prefill(1, 0, 1), Prefill(2, 1, 100)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 8, .max_step_tokens = 16}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(0, 1), Row(1, 15)));
}

TEST(SchedulerTest, WhenDecodingRowsDoNotFitTheLongestWaitingGoFirst) {
  FairShare share;
  const std::vector<RowView> views = {Decoding(1, 0), Decoding(2, 1), Decoding(3, 0),
                                      Decoding(4, 1)};
  const StepPlan plan = PlanStep(views, {.max_batch_rows = 2, .max_step_tokens = 8}, share);
  EXPECT_THAT(plan.rows, ElementsAre(Row(1, 1), Row(3, 1)));
}

TEST(SchedulerTest, APrefillAtItsBoundGoesBeforeDecodingRows) {
  FairShare share;
  const SchedulerLimits limits = {.max_batch_rows = 2, .max_step_tokens = 2};
  std::vector<RowView> views = {Decoding(1), Decoding(2), Prefill(3, 0, 100)};
  // ceil(3 / 2) + 1 = 3 steps may be waited.
  views[2].steps_waited = 2;
  EXPECT_THAT(PlanStep(views, limits, share).rows, ElementsAre(Row(0, 1), Row(1, 1)));
  views[2].steps_waited = 3;
  EXPECT_THAT(PlanStep(views, limits, share).rows, ElementsAre(Row(0, 1), Row(2, 1)));
}

TEST(SchedulerTest, AStepNeverHasMoreRowsThanTokens) {
  FairShare share;
  const std::vector<RowView> views = {Decoding(1), Decoding(2), Decoding(3), Decoding(4)};
  EXPECT_THAT(PlanStep(views, {.max_batch_rows = 64, .max_step_tokens = 3}, share).rows, SizeIs(3));
}

TEST(SchedulerTest, AnOwnerWithoutWorkIsForgotten) {
  FairShare share;
  const SchedulerLimits limits = {.max_batch_rows = 2, .max_step_tokens = 4};
  PlanStep(std::vector<RowView>{Prefill(1, 7, 100), Prefill(2, 9, 100)}, limits, share);
  PlanStep(std::vector<RowView>{Prefill(2, 9, 100)}, limits, share);
  EXPECT_FALSE(share.deficit.contains(7));
}

}  // namespace
}  // namespace gma
