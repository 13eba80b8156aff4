// Rows of idle sessions between the pool and host memory.
#include <memory>
#include <utility>

#include "base/check.h"
#include "server/engine/engine_core.h"

namespace gma {

bool EngineState::MakeRows(int32_t rows, const Session* except) {
  while (pool_->capacity() - pool_->used() < rows) {
    if (!ParkOne(except)) return false;
  }
  return true;
}

bool EngineState::ParkOne(const Session* except) {
  Session* const session = table_.LeastUsed(SessionTier::kPool, except);
  if (session == nullptr || !table_.ReserveMemory(parked_row_bytes_)) return false;
  Park(*session);
  return true;
}

std::shared_ptr<const RowBytes> EngineState::Encode(Session& session) {
  const RowEncoding format = options_.park_format;
  if (format == RowEncoding::kFloat32) {
    return std::make_shared<const RowBytes>(session.row().view().Copy());
  }
  RowBytes encoded;
  session.row().Edit([&](absl::Span<uint8_t> row) {
    encoded = EncodeRow(decoder_.state_layout(), row, format);
    DecodeRow(decoder_.state_layout(), encoded, format, row);
  });
  return std::make_shared<const RowBytes>(std::move(encoded));
}

void EngineState::Park(Session& session) {
  table_.Park(session, Encode(session));
  // The journal cannot tell of the rounding: what is fed next follows a snapshot. A row that was
  // fed nothing since the last one has been rounded then.
  StoredState& stored = session.stored();
  const bool rounded = options_.park_format != RowEncoding::kFloat32;
  if (rounded && session.fed() != stored.fed_at_snapshot) stored.needs_snapshot = true;
  metrics_.session_evictions[EvictionLabel::kPoolToMemory]->Increment();
}

bool EngineState::Wake(Session& session) {
  const absl::Duration start = clock_.Monotonic();
  // The place of its own row in memory is enough for the one that it drives out.
  const auto bytes = static_cast<int64_t>(session.parked()->size());
  table_.HoldMemory(-bytes);
  const bool made = MakeRows(1, &session);
  table_.HoldMemory(bytes);
  if (!made) return false;
  absl::StatusOr<StateRow> row = pool_->AcquireUnset();
  GMA_CHECK(row.ok());
  if (options_.park_format == RowEncoding::kFloat32) {
    row->Write(*session.parked());
  } else {
    row->Edit([&](absl::Span<uint8_t> edited) {
      DecodeRow(decoder_.state_layout(), *session.parked(), options_.park_format, edited);
    });
  }
  table_.Wake(session, *std::move(row));
  metrics_.session_restore_time[0]->Observe(absl::ToDoubleSeconds(clock_.Monotonic() - start));
  return true;
}

void EngineCore::OnMessage(PinMessage message) {
  absl::StatusOr<Session*> session = table_.Find(message.owner, message.id, clock_.Monotonic());
  if (!session.ok()) return message.done(session.status());
  // One that is parked is not pinned.
  if ((*session)->pinned() != message.pinned) table_.Pin(**session, message.pinned);
  message.done(InfoOf(**session));
}

void EngineState::CheckTiers() const {
  int64_t parked = 0;
  int32_t pool = 0, memory = 0, disk = 0;
  table_.ForEach([&](const Session& session) {
    (session.tier() == SessionTier::kPool ? pool : memory) += 1;
    if (session.tier() == SessionTier::kPool) return;
    GMA_CHECK(session.phase() == SessionPhase::kIdle && !session.pinned());
    GMA_CHECK(session.parked()->size() == parked_row_bytes_);
    parked += static_cast<int64_t>(parked_row_bytes_);
  });
  table_.ForEachOwner([&](const Owner& owner) {
    disk += static_cast<int32_t>(owner.sleeping.size());
    GMA_CHECK(owner.stored_bytes >= 0);
  });
  GMA_CHECK(pool == table_.count(SessionTier::kPool));
  GMA_CHECK(memory == table_.count(SessionTier::kMemory));
  GMA_CHECK(disk == table_.count(SessionTier::kDisk));
  GMA_CHECK(parked == table_.parked_bytes());
  GMA_CHECK(table_.memory_bytes() <= table_.park_limit());
}

}  // namespace gma
