#include "server/session/session_past.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace gma {

absl::StatusOr<const Checkpoint*> SessionPast::Keep(std::string_view name,
                                                    const SessionPoint& point, RowSource row) {
  const CheckpointKind kind = name.empty() ? CheckpointKind::kNumbered : CheckpointKind::kNamed;
  return ring_.Keep(kind, name, point, row);
}

void SessionPast::KeepAutomatic(const SessionPoint& point, RowSource row) {
  if (limits_.checkpoint_bytes == 0 || point.context_tokens() == 0) return;
  for (const Checkpoint& there : ring_.all()) {
    if (there.of_present_past() && there.point.fed == point.fed && there.point.pending) return;
  }
  // None is kept where named ones fill the ring.
  ring_.Keep(CheckpointKind::kAutomatic, {}, point, row).status().IgnoreError();
}

bool SessionPast::WantsAutomatic(int64_t fed) const {
  return limits_.checkpoint_tokens > 0 && limits_.checkpoint_bytes > 0 &&
         fed - ring_.latest_fed() >= limits_.checkpoint_tokens;
}

absl::StatusOr<RewindPlan> SessionPast::PlanRewind(const RewindTarget& target,
                                                   int64_t context) const {
  if (const auto* name = std::get_if<std::string>(&target)) return PlanToName(*name, context);
  return PlanToPosition(std::get<int64_t>(target), context);
}

absl::StatusOr<RewindPlan> SessionPast::PlanToName(const std::string& name, int64_t context) const {
  const Checkpoint* checkpoint = ring_.Find(name);
  if (checkpoint == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("the session has no checkpoint \"", absl::CHexEscape(name),
                     "\"; the oldest position that can be reached is ", OldestRewind(context)));
  }
  return RewindPlan{.row = checkpoint->row,
                    .row_fed = checkpoint->point.fed,
                    .replay = {},
                    .point = checkpoint->point};
}

absl::StatusOr<RewindPlan> SessionPast::PlanToPosition(int64_t position, int64_t context) const {
  if (position > context) {
    return absl::OutOfRangeError(absl::StrCat("context_tokens is ", position,
                                              ", and the session holds ", context, " tokens"));
  }
  RewindPlan plan;
  if (position == 0) return plan;
  bool reached = log_.begin() == 0 && position <= log_.end();  // from a row of zero bytes
  for (const Checkpoint& checkpoint : ring_.all()) {
    const SessionPoint& point = checkpoint.point;
    if (!checkpoint.of_present_past()) continue;
    if (point.pending && point.context_tokens() == position) {
      return RewindPlan{.row = checkpoint.row, .row_fed = point.fed, .replay = {}, .point = point};
    }
    const bool leads_there =
        log_.begin() <= point.fed && point.fed < position && position <= log_.end();
    if (!leads_there || (reached && point.fed <= plan.row_fed)) continue;
    plan.row = checkpoint.row;
    plan.row_fed = point.fed;
    reached = true;
  }
  if (!reached) {
    return absl::OutOfRangeError(absl::StrCat(
        "context_tokens is ", position, "; the oldest position that can be reached is ",
        OldestRewind(context), ", besides 0 and checkpoints by their names"));
  }
  plan.point = log_.PointAt(position);
  plan.replay = log_.Tokens(plan.row_fed, position);
  return plan;
}

void SessionPast::Rewound(const RewindTarget& target, const RewindPlan& plan) {
  const int64_t context = plan.point.context_tokens();
  const auto* name = std::get_if<std::string>(&target);
  const Checkpoint* checkpoint = name == nullptr ? nullptr : ring_.Find(*name);
  if (checkpoint != nullptr && !checkpoint->of_present_past()) {
    ring_.Diverge(checkpoint->shared_tokens);
    ring_.Return(*name);
    return log_.Restart(plan.point);
  }
  ring_.Diverge(context);
  if (log_.begin() < context || context == 0) {
    if (context == 0) return log_.Restart(plan.point);
    return log_.Truncate(std::min(context, log_.end()));
  }
  log_.Restart(plan.point);
}

PastImage SessionPast::Image() const {
  return {.log = log_, .checkpoints = ring_.Images(), .last_number = ring_.last_number()};
}

void SessionPast::Restore(PastImage image, const SessionPoint& point) {
  if (image.log.remembers()) {
    log_ = std::move(image.log);
    log_.SetLimit(limits_.rewind_tokens);
  } else {
    log_.Restart(point);
  }
  ring_.Restore(std::move(image.checkpoints), image.last_number);
}

int64_t SessionPast::OldestRewind(int64_t context) const {
  if (log_.begin() == 0 && log_.end() == context) return 0;
  int64_t oldest = context;
  for (const Checkpoint& checkpoint : ring_.all()) {
    const bool leads_on = checkpoint.of_present_past() && log_.begin() <= checkpoint.point.fed &&
                          log_.end() == context;
    if (leads_on) oldest = std::min(oldest, checkpoint.point.fed + 1);
  }
  return oldest;
}

}  // namespace gma
