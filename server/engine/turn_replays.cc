#include "server/engine/turn_replays.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/engine/engine.h"

namespace gma {

absl::Status GoneError(int64_t after, int64_t oldest) {
  return absl::OutOfRangeError(absl::StrCat("after is ", after, ", and the oldest event kept is ",
                                            oldest, ": those between are gone"));
}

absl::Status StateTooOldError(int64_t after, int64_t last) {
  return absl::DataLossError(
      absl::StrCat("the session's state is older than what the client has acknowledged: after is ",
                   after, ", and the session's last event is ", last));
}

absl::Status DoubtfulError() {
  return absl::UnavailableError(
      "the session here is older than what the client has acknowledged, and the store does not say "
      "whether another server has it");
}

absl::Status MovedError() { return absl::AbortedError("the session moved to another server"); }

absl::Status AbandonedError() { return absl::CancelledError("the reader of the stream is gone"); }

bool Deliver(TokenStream& stream, const TurnHistory& history, int64_t& delivered) {
  if (delivered + 1 < history.first()) {
    stream.Close(GoneError(delivered, history.first()));
    return true;
  }
  while (delivered < history.last()) {
    StreamEvent event = history.At(delivered + 1);
    if (std::holds_alternative<TokenEvent>(event) && !stream.HasRoom(1)) return false;
    auto* const finished = std::get_if<FinishedEvent>(&event);
    const bool held = delivered + 1 >= history.held_from();
    if (held && !history.end()) return false;
    if (held && !history.end()->ok()) break;
    ++delivered;
    if (finished != nullptr) {
      stream.Finish(std::move(*finished));
      return true;
    }
    stream.Push(std::move(event));
  }
  if (!history.end()) return false;
  // A turn that was run again after a restart came to an end before what its reader has seen.
  const bool too_old = history.end()->ok() && delivered > history.last();
  stream.Close(too_old ? StateTooOldError(delivered, history.last()) : *history.end());
  return true;
}

void TurnReplays::Add(uint64_t session, std::shared_ptr<TokenStream> stream,
                      std::shared_ptr<const TurnHistory> history, int64_t delivered) {
  replays_.push_back({session, std::move(stream), std::move(history), delivered});
}

void TurnReplays::TakeOver(uint64_t session) {
  std::erase_if(replays_, [session](const Replay& replay) {
    if (replay.session != session) return false;
    replay.stream->Close(TakenOverError());
    return true;
  });
}

bool TurnReplays::Pump() {
  bool some = false;
  std::erase_if(replays_, [&some](Replay& replay) {
    if (replay.stream->cancelled()) return true;
    const int64_t delivered = replay.delivered;
    const bool over = Deliver(*replay.stream, *replay.history, replay.delivered);
    some |= over || replay.delivered != delivered;
    return over;
  });
  return some;
}

void TurnReplays::CloseAll(const absl::Status& status) {
  for (const Replay& replay : std::exchange(replays_, {})) replay.stream->Close(status);
}

}  // namespace gma
