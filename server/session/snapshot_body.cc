#include "server/session/snapshot_body.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "server/session/byte_codec.h"

namespace gma {

template <typename Codec, SameAs<SessionPoint> T>
void Fields(Codec& codec, T& point) {
  auto& [fed, pending, answer_open, answer_tail] = point;
  codec(fed, pending, answer_open, answer_tail);
}

// But for the row.
template <typename Codec, SameAs<CheckpointImage> T>
void Fields(Codec& codec, T& checkpoint) {
  auto& [kind, name, point, shared_tokens, row] = checkpoint;
  codec(kind, name, point, shared_tokens);
}

namespace {

constexpr size_t kMaxCheckpointNameBytes = 64;
constexpr int64_t kMaxTtlSeconds = int64_t{1} << 40;
constexpr int64_t kMaxFed = int64_t{1} << 60;  // far from where sums overflow

absl::Status Contradiction() {
  return absl::InvalidArgumentError("the session contradicts itself");
}

bool Sound(const SessionPoint& point, int32_t vocab_size) {
  const auto token = [&](int32_t id) { return id >= 0 && id < vocab_size; };
  return point.fed >= 0 && point.fed <= kMaxFed && (!point.pending || token(*point.pending)) &&
         point.answer_tail.size() <= SessionPoint::kAnswerTail &&
         std::all_of(point.answer_tail.begin(), point.answer_tail.end(), token);
}

bool Sound(const CheckpointImage& checkpoint, int32_t vocab_size) {
  return (checkpoint.kind == CheckpointKind::kNumbered ||
          checkpoint.kind == CheckpointKind::kNamed) &&
         !checkpoint.name.empty() && checkpoint.name.size() <= kMaxCheckpointNameBytes &&
         Sound(checkpoint.point, vocab_size) && checkpoint.shared_tokens >= 0 &&
         checkpoint.shared_tokens <= checkpoint.point.context_tokens();
}

bool TtlSound(int64_t seconds) { return seconds > 0 && seconds <= kMaxTtlSeconds; }

}  // namespace

std::string WriteSnapshotBody(const SessionImage& image) {
  const auto& [ttl, point, row, sequence, turn_key, last_turn_answers, journaled, last_turn, past] =
      image;
  const auto& [log, checkpoints, last_number] = past;
  ByteWriter writer;
  writer(absl::ToInt64Seconds(ttl), point, sequence, turn_key, last_turn_answers, journaled,
         log.remembers() ? log.Serialize() : std::string(), checkpoints, last_number);
  if (!last_turn.empty()) writer(last_turn);
  return std::move(writer).Take();
}

absl::StatusOr<SessionImage> ReadSnapshotBody(std::string_view bytes, int32_t vocab_size) {
  SessionImage image;
  PastImage& past = image.past;
  int64_t ttl = 0;
  std::string log;
  ByteReader reader(bytes);
  reader(ttl, image.point, image.sequence, image.turn_key, image.last_turn_answers, image.journaled,
         log, past.checkpoints, past.last_number);
  if (reader.sound() && !reader.AtEnd()) {
    reader(image.last_turn);
    if (image.last_turn.empty()) return Contradiction();
  }
  const auto sound = [&](const CheckpointImage& checkpoint) {
    return Sound(checkpoint, vocab_size);
  };
  if (!reader.AtEnd() || !TtlSound(ttl) || !Sound(image.point, vocab_size) || image.sequence < 0 ||
      image.turn_key.size() > kMaxTurnKeyBytes || image.journaled < 0 || past.last_number < 0 ||
      !std::all_of(past.checkpoints.begin(), past.checkpoints.end(), sound)) {
    return Contradiction();
  }
  image.ttl = absl::Seconds(ttl);
  if (!log.empty()) {
    GMA_ASSIGN_OR_RETURN(past.log, TokenLog::Parse(log, vocab_size, image.point.context_tokens()));
  }
  return image;
}

absl::StatusOr<SessionImage> ReadSnapshotBodyV1(std::string_view bytes, int32_t vocab_size) {
  GMA_CHECK(bytes.size() == kSnapshotBodyBytesV1);
  int64_t ttl = 0;
  int32_t pending = 0;
  uint16_t answer_open = 0, tail = 0;
  SessionImage image;
  ByteReader reader(bytes);
  reader(ttl, image.point.fed, pending, answer_open, tail);
  if (!TtlSound(ttl) || tail > SessionPoint::kAnswerTail) return Contradiction();
  image.ttl = absl::Seconds(ttl);
  if (pending >= 0) image.point.pending = pending;
  image.point.answer_open = answer_open != 0;
  image.point.answer_tail.resize(tail);
  for (int32_t& token : image.point.answer_tail) reader(token);
  if (!Sound(image.point, vocab_size)) return Contradiction();
  return image;
}

}  // namespace gma
