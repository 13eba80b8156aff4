// What a client of the simulation with a store makes of what it is told.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/sim/sim_check.h"
#include "tests/sim/store_client.h"

namespace gma::testing {

void StoreClient::Trace(const std::string& line) const {
  if (!sim_trace) return;
  SimTrace(absl::StrCat("client ", id_ ? id_->Hex().substr(0, 8) : "new", " ", key_, " op ",
                        static_cast<int>(op_), ": ", line));
}

void StoreClient::OnFinished(const FinishedEvent& event) {
  const bool cut = turn_->reason() == FinishReason::kNone;
  if (cut && (event.reason != FinishReason::kCancelled || !MayBeCut())) {
    return Mismatch(Proof::kContents,
                    absl::StrCat("an answer ends too early, as ", static_cast<int>(event.reason)));
  }
  if (!cut && event.reason != turn_->reason()) {
    return Mismatch(Proof::kContents, "an answer ends for another reason");
  }
  counts_.cancelled += cut ? 1 : 0;
  if (started_) {
    // Cut while it read input, it has read a part, which the session's length tells.
    if (!turn_->has_read_all()) at_least_ = static_cast<int64_t>(model_.tokens.size());
    model_.Add(turn_->tokens());
  } else if (event.usage.prompt_tokens != 0) {
    return Mismatch(Proof::kContents, "a turn that never started has fed something");
  }
  model_.last = seen_;
  turn_.reset();
  Settle();
}

void StoreClient::Settle() {
  if (unsure_ || at_least_) {
    if (call_ == nullptr || !*call_) op_ = Op::kGet;
  } else if (!entering_) {
    Done();
  } else if (behind_) {
    model_.Add(*entering_);
    ++model_.last;
    entering_.reset();
    Done();
  }
}

void StoreClient::OnStreamEnd(const absl::Status& status) {
  if (!turn_) return;  // it is finished
  // Where its client sees that something is wrong.
  if (status.ok()) return Mismatch(Proof::kRefusal, "a stream ends well without its turn");
  if (entering_ && !behind_) unsure_ = true;
  OnRefused(status);
}

void StoreClient::OnOpened(const SessionSnapshotInfo& info) {
  id_ = info.id;
  Done();
}

void StoreClient::OnAppended(const SessionSnapshotInfo& info) {
  model_.Add(input_);
  ++model_.last;
  durable_ = true;
  ++counts_.appends;
  Done();
  if (info.last_sequence != model_.last ||
      info.context_tokens != static_cast<int64_t>(model_.tokens.size())) {
    Mismatch(Proof::kContents, absl::StrCat("after an Append there are ", info.context_tokens,
                                            " tokens and ", info.last_sequence, " events, must be ",
                                            model_.tokens.size(), " and ", model_.last));
  }
}

void StoreClient::OnRewound(const SessionSnapshotInfo& info) {
  model_.tokens.resize(static_cast<size_t>(target_));
  ++counts_.rewinds;
  Done();
  if (info.context_tokens != target_ || info.last_sequence != model_.last) {
    Mismatch(Proof::kContents, absl::StrCat("a Rewind to ", target_, " left ", info.context_tokens,
                                            " tokens and ", info.last_sequence, " events"));
  }
}

void StoreClient::OnCheckpoint(const CheckpointInfo& info) {
  Done();
  if (info.context_tokens != static_cast<int64_t>(model_.tokens.size())) {
    Mismatch(Proof::kContents, "a checkpoint of another state");
  }
}

void StoreClient::OnForked(const SessionSnapshotInfo& info) {
  Done();
  ++counts_.forks;
  if (info.context_tokens != static_cast<int64_t>(model_.tokens.size())) {
    return Mismatch(Proof::kContents, "a fork of another state");
  }
  auto fork =
      std::make_unique<StoreClient>(owner_, clock_, resume_window_, random_, store_, counts_);
  fork->id_ = info.id;
  fork->model_.tokens = model_.tokens;
  store_.Fork(*id_, info.id);
  forks_.push_back(std::move(fork));
}

void StoreClient::OnInfo(const SessionSnapshotInfo& info) {
  ++counts_.gets;
  if (info.turn_active) {
    // It is run again; asked once more. One whose end was not written stands until it is resumed.
    if (store_.Tainted(*id_) || store_.Lied(*id_)) {
      Mismatch(Proof::kContents, "a turn that has ended is active");
    }
    return;
  }
  const bool entered = entering_ && (behind_ || (unsure_ && info.last_sequence == model_.last + 1));
  if (at_least_) {
    const int64_t left =
        info.context_tokens - (entered ? static_cast<int64_t>(entering_->size()) : 0);
    const bool fits = *at_least_ <= left && left <= static_cast<int64_t>(model_.tokens.size());
    if (fits) model_.tokens.resize(static_cast<size_t>(left));
  }
  at_least_.reset();
  if (entered) {
    model_.Add(*entering_);
    ++model_.last;
  }
  entering_.reset();
  unsure_ = behind_ = false;
  Done();
  if (info.last_sequence != model_.last ||
      info.context_tokens != static_cast<int64_t>(model_.tokens.size())) {
    return Mismatch(
        Proof::kContents,
        absl::StrCat("there are ", info.context_tokens, " tokens and ", info.last_sequence,
                     " events, must be ", model_.tokens.size(), " and ", model_.last));
  }
  checked_ = concluding_;
}

void StoreClient::OnClosed(const SessionSnapshotInfo& info) {
  ++counts_.closed;
  over_ = true;
  // Asked again, a server that was frozen may close what it still has of it.
  if (tries_ == 1 && !info.turn_active && info.last_sequence != model_.last) {
    Mismatch(Proof::kContents, "another session was closed");
  }
}

// It was closed, and the answer was lost.
void StoreClient::OnClosedBefore() {
  over_ = true;
  ++counts_.closed;
}

void StoreClient::OnRefused(const absl::Status& status) {
  ++counts_.retries;
  Trace(absl::StrCat("refused, ", status.ToString()));
  ++counts_.refusals[absl::StatusCodeToString(status.code())];
  const bool is_past = status.code() == absl::StatusCode::kOutOfRange ||
                       absl::StrContains(status.message(), "used in between");
  if (is_past && turn_ && entering_ && (unsure_ || behind_)) {
    over_ = true;
    ++counts_.crossed;
    return;
  }
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      if (op_ == Op::kCheckpoint || op_ == Op::kFork) Done();  // there may never be room
      return;
    case absl::StatusCode::kAborted:
      // Nobody else uses the session.
      if (absl::StrContains(status.message(), "used in between")) break;
      return;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return;  // the same again
    case absl::StatusCode::kFailedPrecondition:
      // A turn that is run again stands in the way of what is no turn.
      if (op_ == Op::kFork || op_ == Op::kCheckpoint) return Done();
      // A Rewind goes on without its caller.
      if (op_ == Op::kRewind && tries_ > 1) return;
      // So does input that came behind its turn, and is one of its own.
      if (turn_ && entering_ && (unsure_ || behind_)) return;
      break;
    case absl::StatusCode::kDataLoss:
      if (absl::StrContains(status.message(), "a step of the decoder failed")) return;
      // What a server that was frozen writes of a session that was closed is never whole.
      if (op_ == Op::kClose && tries_ > 1) return OnClosedBefore();
      break;
    case absl::StatusCode::kNotFound:
      if (op_ == Op::kClose) return OnClosedBefore();
      if (!durable_) {  // the open, or the fork, had not been written
        over_ = true;
        ++counts_.lost_opens;
        return;
      }
      break;
    default:
      break;
  }
  Mismatch(Proof::kRefusal, status.ToString());
}

void StoreClient::Mismatch(Proof proof, const std::string& what) {
  const bool tainted = store_.Tainted(*id_);
  // A store that tells an old state is found out by sequence numbers; calls without any believe it.
  const bool deceived =
      store_.Lied(*id_) && (proof == Proof::kRefusal || op_ != Op::kGenerate || model_.last == 0);
  SIM_EXPECT(tainted || deceived, absl::StrCat("session ", id_->Hex(), ", ", key_, ": ", what));
  ++(tainted ? counts_.tainted : counts_.lied);
  over_ = true;
}

void StoreClient::Conclude(Engine& engine) {
  if (over_ || concluded_) return;
  Read();
  if (over_) return;
  const bool on_its_way = stream_ != nullptr || (call_ != nullptr && *call_);
  if (on_its_way) return;
  if (op_ != Op::kNone) return Call(engine);
  if (!id_) {
    over_ = true;
  } else if (!concluding_) {
    // All of its past decides what is drawn now.
    concluding_ = true;
    key_ = "last";
    BeginGenerate();
  } else if (!checked_) {
    op_ = Op::kGet;
  } else {
    concluded_ = true;
  }
}

}  // namespace gma::testing
