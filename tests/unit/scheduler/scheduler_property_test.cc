// Laws of the scheduler under many random arrivals: limits, work conservation, the waiting bound,
// and fairness between owners.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "server/scheduler/scheduler.h"

namespace gma {
namespace {

struct Job {
  RowView view;
  int64_t decode_left;
  int64_t most_runnable = 0;  // while it waited
};

int64_t Bound(int64_t runnable, int64_t step_rows) {
  return (runnable + step_rows - 1) / step_rows + 1;
}

class World {
 public:
  World(uint64_t seed, SchedulerLimits limits, uint32_t owners)
      : random_(seed), limits_(limits), owners_(owners) {}

  int64_t Uniform(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  void Arrive(int64_t most) {
    for (int64_t n = Uniform(0, most); n > 0; --n) {
      const bool decoding = Uniform(0, 3) == 0;
      jobs_.push_back({.view = {.turn = ++turns_,
                                .owner = static_cast<uint32_t>(Uniform(0, owners_ - 1)),
                                .decoding = decoding,
                                .tokens_to_feed = decoding ? 1 : Uniform(1, 60),
                                .priority = static_cast<int32_t>(Uniform(-10, 10)),
                                .steps_waited = 0},
                       .decode_left = Uniform(0, 20)});
    }
  }

  // Plans one step, checks it against the laws, and carries it out.
  void Step() {
    std::vector<RowView> views;
    for (const Job& job : jobs_) views.push_back(job.view);
    const StepPlan plan = PlanStep(views, limits_, *share_);
    CheckShape(views, plan);
    const int64_t step_rows = std::min(limits_.max_batch_rows, limits_.max_step_tokens);
    std::set<size_t> ran;
    for (const PlannedRow& row : plan.rows) {
      ran.insert(row.view);
      Job& job = jobs_[row.view];
      job.view.steps_waited = 0;
      job.most_runnable = 0;
      if (job.view.decoding) {
        --job.decode_left;
      } else {
        job.view.tokens_to_feed -= row.tokens;
      }
    }
    for (size_t i = 0; i < jobs_.size(); ++i) {
      if (ran.contains(i)) continue;
      Job& job = jobs_[i];
      job.most_runnable = std::max<int64_t>(job.most_runnable, static_cast<int64_t>(views.size()));
      ++job.view.steps_waited;
      EXPECT_LE(job.view.steps_waited, Bound(job.most_runnable, step_rows))
          << "turn " << job.view.turn;
    }
    for (Job& job : jobs_) {
      if (!job.view.decoding && job.view.tokens_to_feed == 0) {
        job.view.decoding = true;
        job.view.tokens_to_feed = 1;
      }
    }
    std::erase_if(jobs_, [](const Job& job) { return job.view.decoding && job.decode_left < 0; });
    // Some leave: cancelled, or their reader does not keep up.
    std::erase_if(jobs_, [&](const Job&) { return Uniform(0, 99) == 0; });
  }

  bool idle() const { return jobs_.empty(); }

 private:
  void CheckShape(const std::vector<RowView>& views, const StepPlan& plan) {
    EXPECT_EQ(plan.rows.empty(), views.empty());
    EXPECT_LE(plan.rows.size(), static_cast<size_t>(limits_.max_batch_rows));
    int64_t tokens = 0, offered = 0;
    bool prefill_seen = false;
    std::set<size_t> seen;
    for (const PlannedRow& row : plan.rows) {
      const RowView& view = views[row.view];
      EXPECT_TRUE(seen.insert(row.view).second);
      EXPECT_GE(row.tokens, 1);
      EXPECT_LE(row.tokens, view.tokens_to_feed);
      EXPECT_FALSE(prefill_seen && view.decoding);
      prefill_seen |= !view.decoding;
      tokens += row.tokens;
      offered += view.tokens_to_feed;
    }
    EXPECT_LE(tokens, limits_.max_step_tokens);
    // Nothing is left over while somebody could use it: either the tokens are used up, or every
    // row in the plan is fed whole and there is no row beside it or no place for one.
    if (tokens < limits_.max_step_tokens) {
      EXPECT_EQ(tokens, offered);
      EXPECT_TRUE(plan.rows.size() == views.size() ||
                  plan.rows.size() == static_cast<size_t>(limits_.max_batch_rows));
    }
  }

  std::mt19937_64 random_;
  const SchedulerLimits limits_;
  const int64_t owners_;
  std::unique_ptr<FairShare> share_ = std::make_unique<FairShare>();
  std::vector<Job> jobs_;
  uint64_t turns_ = 0;
};

TEST(SchedulerPropertyTest, LimitsAndWaitingBoundHoldForRandomArrivals) {
  std::mt19937_64 meta(20260728);
  for (int round = 0; round < 300; ++round) {
    const uint64_t seed = meta();
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    World probe(seed, {}, 1);
    const SchedulerLimits limits = {.max_batch_rows = static_cast<int32_t>(probe.Uniform(1, 12)),
                                    .max_step_tokens = static_cast<int32_t>(probe.Uniform(1, 40))};
    World world(seed + 1, limits, static_cast<uint32_t>(probe.Uniform(1, 5)));
    const int64_t most = probe.Uniform(1, 6);
    for (int step = 0; step < 150; ++step) {
      // Bursts of arrivals at once are what makes many rows reach their bound together.
      if (step % 50 == 0) world.Arrive(60);
      world.Arrive(most);
      world.Step();
      if (::testing::Test::HasFailure()) return;
    }
    for (int step = 0; step < 100'000 && !world.idle(); ++step) world.Step();
    EXPECT_TRUE(world.idle());
  }
}

// Owners that always have something to feed get equal shares, whatever they throw at the server.
TEST(SchedulerPropertyTest, BackloggedOwnersGetEqualShares) {
  for (uint64_t seed : {1, 2, 3, 4}) {
    std::mt19937_64 random(seed);
    const SchedulerLimits limits = {.max_batch_rows = 16, .max_step_tokens = 64};
    // On the heap: g++ 12 takes the empty map's static group for something that gets freed.
    const auto share = std::make_unique<FairShare>();
    uint64_t turns = 0;
    std::vector<RowView> views;
    std::map<uint32_t, int64_t> fed;
    for (int step = 0; step < 5000; ++step) {
      for (uint32_t owner = 0; owner < 3; ++owner) {
        // Owner 0 keeps nine short prompts waiting, owner 1 three, owner 2 a single endless one.
        const int64_t wanted = owner == 0 ? 9 : owner == 1 ? 3 : 1;
        while (std::count_if(views.begin(), views.end(),
                             [&](const RowView& view) { return view.owner == owner; }) < wanted) {
          const int64_t tokens = owner == 2 ? 1'000'000 : 20 + static_cast<int64_t>(random() % 60);
          views.push_back({.turn = ++turns,
                           .owner = owner,
                           .decoding = false,
                           .tokens_to_feed = tokens,
                           .priority = owner == 0 ? 10 : 0,
                           .steps_waited = 0});
        }
      }
      for (RowView& view : views) ++view.steps_waited;
      for (const PlannedRow& row : PlanStep(views, limits, *share).rows) {
        views[row.view].steps_waited = 0;
        views[row.view].tokens_to_feed -= row.tokens;
        fed[views[row.view].owner] += row.tokens;
      }
      std::erase_if(views, [](const RowView& view) { return view.tokens_to_feed == 0; });
    }
    EXPECT_EQ(fed[0] + fed[1] + fed[2], 5000 * 64);
    for (uint32_t owner : {0u, 1u, 2u}) {
      EXPECT_NEAR(static_cast<double>(fed[owner]), 5000 * 64 / 3.0, 2 * 64.0) << "owner " << owner;
    }
  }
}

}  // namespace
}  // namespace gma
