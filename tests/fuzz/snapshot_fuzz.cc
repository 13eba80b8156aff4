// Any bytes as what is kept of sessions. The first byte says as what; sealed ones come in chunks
// whose size the last byte picks. The seeds are sealed with the key of the golden files, so they
// are accepted, and what was changed in them is not; what would be sealed is also read by itself,
// since no fuzzer guesses a tag. Whatever is accepted can be written, and is then the same.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "server/session/journal_record.h"
#include "server/session/snapshot.h"
#include "server/session/snapshot_body.h"
#include "tests/unit/session/sealed_fixture.h"

namespace gma {
namespace {

enum Target { kExported, kStored, kBody, kTokenLog, kRecord, kRecordBody, kTargets };

void Snapshot(const SnapshotScope& scope, std::string_view bytes, std::optional<SessionId> id) {
  const size_t chunk = bytes.empty() ? 1 : size_t{static_cast<uint8_t>(bytes.back())} + 1;
  SnapshotReader reader(scope, "alice", id);
  while (!bytes.empty()) {
    const size_t count = std::min(chunk, bytes.size());
    const absl::Status status = reader.Add(bytes.substr(0, count));
    if (!status.ok()) {
      GMA_CHECK(!status.message().empty());
      return;
    }
    bytes.remove_prefix(count);
  }
  absl::StatusOr<SessionImage> image = std::move(reader).Finish();
  if (!image.ok()) return;
  const std::string body = WriteSnapshotBody(*image);
  const std::string sealed = SealSnapshot(
      scope, {.owner = "alice", .created_at = absl::UnixEpoch(), .id = id}, *std::move(image));
  const absl::StatusOr<SessionImage> again = OpenSnapshot(scope, "alice", id, sealed);
  GMA_CHECK(again.ok() && WriteSnapshotBody(*again) == body);
}

void Body(const SnapshotScope& scope, std::string_view bytes) {
  const absl::StatusOr<SessionImage> image = ReadSnapshotBody(bytes, scope.vocab_size);
  if (!image.ok()) return;
  const std::string body = WriteSnapshotBody(*image);
  const absl::StatusOr<SessionImage> again = ReadSnapshotBody(body, scope.vocab_size);
  GMA_CHECK(again.ok() && WriteSnapshotBody(*again) == body);
}

// The first 8 bytes say where the session stands.
void Log(const SnapshotScope& scope, std::string_view bytes) {
  if (bytes.size() < 8) return;
  int64_t context = 0;
  for (int i = 7; i >= 0; --i) context = context << 8 | static_cast<uint8_t>(bytes[i]);
  bytes.remove_prefix(8);
  if (context < 0 || context > int64_t{1} << 60) return;  // as the body's reader asks for
  absl::StatusOr<TokenLog> log = TokenLog::Parse(bytes, scope.vocab_size, context);
  if (!log.ok()) return;
  GMA_CHECK(log->Serialize() == bytes);
  for (int64_t at = log->begin() + 1; at <= log->end(); ++at) GMA_CHECK(log->PointAt(at).fed < at);
  if (!log->remembers()) return;
  log->BeginTurn({.fed = context, .pending = {}, .answer_tail = {}}, true, true);
  for (int i = 0; i < 40; ++i) log->Put(context++, 1, true);
  GMA_CHECK(log->PointAt(context).answer_tail.size() == SessionPoint::kAnswerTail);
  log->Truncate(log->begin());
}

void Record(const SnapshotScope& scope, std::string_view bytes) {
  for (int64_t number = 5; number <= 7; ++number) {
    const RecordPlace place{"alice", testing::GoldenId(), number};
    const absl::StatusOr<JournalRecord> record = OpenRecord(scope, place, bytes);
    if (!record.ok()) continue;
    const absl::StatusOr<JournalRecord> again =
        OpenRecord(scope, place, SealRecord(scope, place, *record));
    GMA_CHECK(again.ok() && WriteRecordBody(*again) == WriteRecordBody(*record));
  }
}

void RecordBody(const SnapshotScope& scope, std::string_view bytes) {
  const absl::StatusOr<JournalRecord> record = ReadRecordBody(bytes, scope.vocab_size);
  if (record.ok()) GMA_CHECK(WriteRecordBody(*record) == bytes);
}

}  // namespace
}  // namespace gma

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const scope = new gma::SnapshotScope(gma::testing::GoldenScope());
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % gma::kTargets) {
    case gma::kExported:
      gma::Snapshot(*scope, bytes, std::nullopt);
      break;
    case gma::kStored:
      gma::Snapshot(*scope, bytes, gma::testing::GoldenId());
      break;
    case gma::kBody:
      gma::Body(*scope, bytes);
      break;
    case gma::kTokenLog:
      gma::Log(*scope, bytes);
      break;
    case gma::kRecord:
      gma::Record(*scope, bytes);
      break;
    case gma::kRecordBody:
      gma::RecordBody(*scope, bytes);
      break;
    default:
      break;
  }
  return 0;
}
