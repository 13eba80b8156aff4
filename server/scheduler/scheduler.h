// Which rows take part in the next step, with how many tokens each: a pure function of a view.
#ifndef GMA_SERVER_SCHEDULER_SCHEDULER_H_
#define GMA_SERVER_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace gma {

// A session that could take part in the next step.
struct RowView {
  uint64_t turn;           // increases with the order of acceptance; unique
  uint32_t owner;          // small number of its owner
  bool decoding;           // prompt done: feeds one token and wants logits
  int64_t tokens_to_feed;  // >= 1; exactly 1 when decoding
  int32_t priority;        // [-10, 10], larger first
  int64_t steps_waited;    // steps in which it was left out, since it last ran or became runnable
};

struct SchedulerLimits {
  int32_t max_batch_rows;   // >= 1
  int32_t max_step_tokens;  // >= 1, all rows together
};

struct PlannedRow {
  size_t view;     // index into the views
  int32_t tokens;  // [1, tokens_to_feed]
};

struct StepPlan {
  std::vector<PlannedRow> rows;  // decoding rows first; distinct views
};

// What deficit round robin keeps from step to step.
struct FairShare {
  absl::flat_hash_map<uint32_t, int64_t> deficit;  // owner -> tokens it may still feed this round
  uint32_t next_owner = 0;                         // owner whose turn it is
};

// Decoding rows first, those that waited longest before others, then prefill chunks by deficit
// round robin over owners (inside an owner by priority, then by turn), within both limits. Before
// both go, with one token each at least, as many of the longest waiting rows of either kind as it
// takes to keep the promise: no row waits more than ceil(runnable / rows of a step) + 1 steps,
// where a step has min(max_batch_rows, max_step_tokens) rows and runnable is the largest number
// while it waited. The plan is empty only if `views` is.
StepPlan PlanStep(absl::Span<const RowView> views, const SchedulerLimits& limits,
                  FairShare& fair_share);

}  // namespace gma

#endif  // GMA_SERVER_SCHEDULER_SCHEDULER_H_
