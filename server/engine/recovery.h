// What a journal tells of a session since its snapshot, and how a session is taken through it
// without a decoder: the tokens of turns that ended are known, so all of them are fed again at once
// in the end.
#ifndef GMA_SERVER_ENGINE_RECOVERY_H_
#define GMA_SERVER_ENGINE_RECOVERY_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/session/journal_record.h"
#include "server/session/session.h"
#include "server/session/session_table.h"

namespace gma {

struct RecordedTurn {
  TurnBeginRecord begin;
  std::vector<InterjectionRecord> inputs;
  std::optional<TurnEndRecord> end;  // nothing: it was cut, which only the last one can be
};

// ERRORS: kDataLoss when the records contradict each other.
absl::StatusOr<std::vector<RecordedTurn>> TurnsOf(std::vector<JournalRecord> records);

// Whether the last turn can only be had again by drawing its tokens: an answer that reached its
// end, or was cut after a token or before any.
bool RunsAgain(const RecordedTurn& turn);

// Takes the session, all but its row, through a turn that is not to run again. Returns the tokens
// that its row lacks then, the pending one excluded; they follow those of turns before.
// ERRORS: kDataLoss when the turn is not one of this session.
absl::StatusOr<std::vector<int32_t>> LiveThrough(SessionTable& table, Session& session,
                                                 const RecordedTurn& turn, absl::Duration now);

// A session that has come from the store with more in its journal than its snapshot holds.
struct Recovery {
  std::vector<RecordedTurn> turns;
  std::vector<int32_t> tokens;  // to be fed again, the last of which stays pending
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_RECOVERY_H_
