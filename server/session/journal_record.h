// What a session is told, written down before it answers: with the last snapshot, enough to live
// through everything since again. Decoding is deterministic, so tokens that were drawn need not be
// written to be had again; those of turns that ended are, so that these need not be drawn again.
//
// Sealed, all numbers little endian:
//
//   offset  bytes
//        0      8  magic "GMAJRNL" and a zero byte
//        8      4  format version, kJournalVersion
//       12      4  zero
//       16      8  number of the record: the session's first has 0, each the one after its
//                  predecessor's, snapshots or not (SessionImage::journaled)
//       24     12  nonce, random
//       36    ...  sealed with AES-256-GCM, key JournalKey (sealed.h): kind (1), then the fields of
//                  the record in the order below (byte_codec.h). Associated data: the bytes before,
//                  and the 32 of the model's fingerprint.
//      end     16  tag
//
// So a record opens only in its session, its place, its model; what a store repeats is known by its
// number, and so is what it has lost, but for the last records of a journal: those only a client
// who has seen later sequence numbers can miss.
#ifndef GMA_SERVER_SESSION_JOURNAL_RECORD_H_
#define GMA_SERVER_SESSION_JOURNAL_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "model/sampling/sampling_params.h"
#include "server/session/session.h"
#include "server/session/session_id.h"
#include "server/session/snapshot.h"

namespace gma {

inline constexpr uint32_t kJournalVersion = 1;
// Twice what the largest request takes.
inline constexpr size_t kMaxRecordBytes = 32 << 20;

// A turn begins.
struct TurnBeginRecord {
  int64_t first_sequence = 0;         // number of its first event
  std::string key;                    // its request key, at most kMaxTurnKeyBytes
  TurnKind kind = TurnKind::kAppend;  // not kReplay: a snapshot is written after a rewind
  int64_t context_before = 0;         // tokens of the session, the pending one included
  std::vector<int32_t> feed;          // after the pending token
  bool new_input = false;             // as for Session::BeginTurn
  SamplingParams sampling;            // of kAnswer
  StopParams stop;                    // of kAnswer
};

// Input entered the turn between two steps.
struct InterjectionRecord {
  int64_t drawn = 0;            // tokens that the turn had drawn before it
  std::vector<int32_t> tokens;  // fed after the pending token
};

// The turn ended.
struct TurnEndRecord {
  FinishReason reason = FinishReason::kNone;
  std::vector<int32_t> drawn;  // all the tokens that the turn drew
  bool failed = false;         // by an error, which the reader was told
  int64_t context_after = 0;   // as context_before; tells how much a turn that was cut has fed
  int64_t last_sequence = 0;   // number of its last event
};

// The turn still runs: written so that the session does not expire in the store under it.
struct TurnRunsRecord {};

using JournalRecord =
    std::variant<TurnBeginRecord, InterjectionRecord, TurnEndRecord, TurnRunsRecord>;

// Where a record stands.
struct RecordPlace {
  std::string owner;
  SessionId id;
  int64_t number;
};

// REQUIRES: the record is within the limits of requests.
std::string SealRecord(const SnapshotScope& scope, const RecordPlace& place,
                       const JournalRecord& record);

// Opens the record that is expected at `place`.
// ERRORS: kAlreadyExists for one with a smaller number: the snapshot holds it, or it was read
// before; it may be skipped. kDataLoss, naming both numbers, for one with a larger number: those
// between are missing. kFailedPrecondition for another format version. kInvalidArgument for what is
// no record, is cut, was changed, is of another session or model, was sealed with another key, or
// contradicts itself.
absl::StatusOr<JournalRecord> OpenRecord(const SnapshotScope& scope, const RecordPlace& place,
                                         std::string_view bytes);

// What is sealed. ERRORS of reading: kInvalidArgument.
std::string WriteRecordBody(const JournalRecord& record);
absl::StatusOr<JournalRecord> ReadRecordBody(std::string_view bytes, int32_t vocab_size);

}  // namespace gma

#endif  // GMA_SERVER_SESSION_JOURNAL_RECORD_H_
