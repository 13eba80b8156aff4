// What a journal tells of a session since its snapshot, and how a session is taken through it
// without a decoder: the tokens of turns that ended are known, so all of them are fed again at once
// in the end.
#ifndef GMA_SERVER_ENGINE_RECOVERY_H_
#define GMA_SERVER_ENGINE_RECOVERY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/turn_history.h"
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

// Whether the last turn can only be had again by drawing its tokens: an answer that drew some, or
// that was cut by a kill.
bool RunsAgain(const RecordedTurn& turn);

// The events of a last turn that is not to run again, for readers that come back: it drew nothing.
// `fed`: tokens in the row before it. Null of one that failed, or has none.
std::shared_ptr<TurnHistory> HistoryOf(const RecordedTurn& turn, int64_t fed, int64_t capacity);

// Takes the session, all but its row, through a turn that is not to run again. Returns the tokens
// that its row lacks then, the pending one excluded; they follow those of turns before.
// ERRORS: kDataLoss when the turn is not one of this session.
absl::StatusOr<std::vector<int32_t>> LiveThrough(SessionTable& table, Session& session,
                                                 const RecordedTurn& turn, absl::Duration now);

// A session that has come from the store with more in its journal than its snapshot holds.
struct Recovery {
  std::vector<RecordedTurn> turns;
  std::vector<int32_t> tokens;           // to be fed again, the last of which stays pending
  std::shared_ptr<TurnHistory> history;  // of the last turn, unless it runs again; may be null
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_RECOVERY_H_
