#include "server/scheduler/scheduler.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/check.h"

namespace gma {
namespace {

// Owners take turns in pieces of a quarter of a step: small enough that four owners share a step,
// large enough that a prompt is not cut into crumbs.
int64_t Quantum(const SchedulerLimits& limits) {
  return std::max<int64_t>(1, limits.max_step_tokens / 4);
}

// Views by steps waited, longest first; among equals decoding rows, then priority, then turn.
std::vector<size_t> LongestWaitingFirst(absl::Span<const RowView> views) {
  std::vector<size_t> order(views.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const RowView &x = views[a], &y = views[b];
    return std::tuple(-x.steps_waited, !x.decoding, -x.priority, x.turn) <
           std::tuple(-y.steps_waited, !y.decoding, -y.priority, y.turn);
  });
  return order;
}

// How many rows of `order` must run now so that the others can still keep the bound W. Were all
// later steps to serve the longest waiting first, S rows each, the row of rank j would be served
// after floor((j - k) / S) more steps when the first k run now, so k must be at least
// j + 1 - (W - waited_j) S for every j. Serving further rows only moves ranks down. A row that runs
// goes behind all others, where ceil(N / S) steps serve it: inside W.
size_t MustRun(absl::Span<const RowView> views, const std::vector<size_t>& order,
               int64_t step_rows) {
  const int64_t count = static_cast<int64_t>(views.size());
  const int64_t bound = (count + step_rows - 1) / step_rows + 1;
  int64_t must = 0;
  for (int64_t rank = 0; rank < count; ++rank) {
    const int64_t slack = bound - views[order[static_cast<size_t>(rank)]].steps_waited;
    must = std::max(must, rank + 1 - slack * step_rows);
  }
  return static_cast<size_t>(std::min({must, step_rows, count}));
}

// The plan while it is made: tokens for each view, 0 for those left out.
class Draft {
 public:
  Draft(absl::Span<const RowView> views, int64_t step_rows, int64_t step_tokens)
      : views_(views), tokens_(views.size()), rows_left_(step_rows), tokens_left_(step_tokens) {}

  // Gives up to `wanted` tokens to a view and returns how many it got.
  int64_t Give(size_t view, int64_t wanted) {
    if (tokens_[view] == 0 && rows_left_ == 0) return 0;
    const int64_t given =
        std::min({wanted, tokens_left_, views_[view].tokens_to_feed - tokens_[view]});
    if (given > 0 && tokens_[view] == 0) --rows_left_;
    tokens_[view] += given;
    tokens_left_ -= given;
    return given;
  }

  bool full() const { return tokens_left_ == 0; }

  StepPlan Finish() const {
    StepPlan plan;
    for (bool decoding : {true, false}) {
      for (size_t view = 0; view < views_.size(); ++view) {
        if (tokens_[view] > 0 && views_[view].decoding == decoding) {
          plan.rows.push_back({view, static_cast<int32_t>(tokens_[view])});
        }
      }
    }
    return plan;
  }

 private:
  absl::Span<const RowView> views_;
  std::vector<int64_t> tokens_;
  int64_t rows_left_, tokens_left_;
};

// Prefill views in the order of service: by owner, inside an owner by priority, then turn.
std::vector<size_t> PrefillByOwner(absl::Span<const RowView> views) {
  std::vector<size_t> order;
  for (size_t view = 0; view < views.size(); ++view) {
    if (!views[view].decoding) order.push_back(view);
  }
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const RowView &x = views[a], &y = views[b];
    return std::tuple(x.owner, -x.priority, x.turn) < std::tuple(y.owner, -y.priority, y.turn);
  });
  return order;
}

// Where in PrefillByOwner's order `owner` begins, or else the next larger one.
size_t FirstOfOwner(absl::Span<const RowView> views, const std::vector<size_t>& order,
                    uint32_t owner) {
  const auto before = [&](size_t view, uint32_t value) { return views[view].owner < value; };
  return static_cast<size_t>(std::lower_bound(order.begin(), order.end(), owner, before) -
                             order.begin());
}

// Feeds the views of one owner, [begin, end) of `order`, as far as `allowance` goes.
// Returns how many tokens they got.
int64_t FeedOwner(const std::vector<size_t>& order, size_t begin, size_t end, int64_t allowance,
                  Draft& draft) {
  int64_t fed = 0;
  for (size_t i = begin; i < end && fed < allowance; ++i) {
    fed += draft.Give(order[i], allowance - fed);
  }
  return fed;
}

// Deficit round robin. The owner at whom the step ended goes on in the next one with what it has
// left; an owner that could take no more gives up the rest and the turn passes on.
void SharePrefill(absl::Span<const RowView> views, const std::vector<size_t>& order,
                  int64_t quantum, FairShare& fair_share, Draft& draft) {
  const auto owner_at = [&](size_t i) { return views[order[i]].owner; };
  size_t begin = FirstOfOwner(views, order, fair_share.next_owner);
  size_t idle = 0;  // views visited since a token was given or a deficit grew above zero
  bool resumed = true;
  while (!draft.full() && idle < order.size()) {
    if (begin >= order.size()) begin = 0;
    const uint32_t owner = owner_at(begin);
    size_t end = begin;
    while (end < order.size() && owner_at(end) == owner) ++end;
    int64_t& deficit = fair_share.deficit[owner];
    const bool continues = resumed && owner == fair_share.next_owner && deficit > 0;
    if (!continues) deficit += quantum;
    resumed = false;
    const int64_t allowance = deficit;
    const int64_t fed = FeedOwner(order, begin, end, allowance, draft);
    deficit -= fed;
    fair_share.next_owner = owner;
    if (draft.full() && deficit > 0) return;
    // It used its share up, or could not: what is left does not pile up.
    if (deficit > 0) deficit = 0;
    idle = fed > 0 || allowance <= 0 ? 0 : idle + (end - begin);
    begin = end;
    // Wraps to the first owner when there is no larger one.
    fair_share.next_owner = owner == std::numeric_limits<uint32_t>::max() ? 0 : owner + 1;
  }
}

}  // namespace

StepPlan PlanStep(absl::Span<const RowView> views, const SchedulerLimits& limits,
                  FairShare& fair_share) {
  GMA_CHECK(limits.max_batch_rows >= 1 && limits.max_step_tokens >= 1);
  if (views.empty()) return {};
  const int64_t step_rows = std::min(limits.max_batch_rows, limits.max_step_tokens);
  Draft draft(views, step_rows, limits.max_step_tokens);

  const std::vector<size_t> waiting = LongestWaitingFirst(views);
  const size_t must = MustRun(views, waiting, step_rows);
  for (size_t i = 0; i < must; ++i) {
    draft.Give(waiting[i], 1);
    // What a row gets out of turn counts against its owner's share, within reason.
    if (!views[waiting[i]].decoding) {
      int64_t& deficit = fair_share.deficit[views[waiting[i]].owner];
      deficit = std::max<int64_t>(deficit - 1, -limits.max_step_tokens);
    }
  }
  for (size_t view : waiting) {
    if (views[view].decoding) draft.Give(view, 1);
  }

  const std::vector<size_t> prefill = PrefillByOwner(views);
  SharePrefill(views, prefill, Quantum(limits), fair_share, draft);
  // An owner without anything to feed starts anew when it comes back.
  absl::erase_if(fair_share.deficit, [&](const auto& entry) {
    const size_t first = FirstOfOwner(views, prefill, entry.first);
    return first == prefill.size() || views[prefill[first]].owner != entry.first;
  });
  return draft.Finish();
}

}  // namespace gma
