#include "server/rpc/session_info.h"

namespace gma {
namespace {

v1::SessionState ToProto(SessionPhase phase) {
  switch (phase) {
    case SessionPhase::kIdle:
      return v1::SESSION_STATE_IDLE;
    case SessionPhase::kQueued:
      return v1::SESSION_STATE_QUEUED;
    case SessionPhase::kPrefilling:
      return v1::SESSION_STATE_PREFILLING;
    case SessionPhase::kDecoding:
      return v1::SESSION_STATE_DECODING;
  }
  return v1::SESSION_STATE_UNSPECIFIED;
}

v1::SessionTier ToProto(SessionTier tier) {
  switch (tier) {
    case SessionTier::kPool:
      return v1::SESSION_TIER_POOL;
    case SessionTier::kMemory:
      return v1::SESSION_TIER_MEMORY;
    case SessionTier::kDisk:
      return v1::SESSION_TIER_DISK;
  }
  return v1::SESSION_TIER_UNSPECIFIED;
}

}  // namespace

void FillInfo(const SessionSnapshotInfo& from, const ServedModel& model, v1::SessionInfo& to) {
  to.set_session_id(from.id.Hex());
  to.set_model(model.name);
  to.set_state(from.detached ? v1::SESSION_STATE_DETACHED : ToProto(from.phase));
  to.set_context_tokens(from.context_tokens);
  to.set_state_bytes(model.state_bytes);
  to.set_age_seconds(absl::ToInt64Seconds(from.age));
  to.set_idle_seconds(absl::ToInt64Seconds(from.idle));
  to.set_ttl_seconds(absl::ToInt64Seconds(from.ttl));
  to.set_checkpoints(from.checkpoints);
  to.set_checkpoint_bytes(from.checkpoint_bytes);
  to.set_oldest_rewind_tokens(from.oldest_rewind);
  to.set_tier(ToProto(from.tier));
  to.set_pinned(from.pinned);
  to.set_last_sequence(static_cast<uint64_t>(from.last_sequence));
}

}  // namespace gma
