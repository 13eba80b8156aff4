#include "tests/chaos/application.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/lib/resume.h"
#include "client/lib/status.h"

namespace gma::chaos {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(20);

// How an answer ends that was cancelled, or is of the same length on purpose.
constexpr char kCut[] = "cut";

std::string NameOf(const Step& step) {
  switch (step.kind) {
    case StepKind::kGenerate:
      return absl::StrCat("generate ", step.max_tokens, " after ", step.text.size(), " bytes");
    case StepKind::kCancel:
      return absl::StrCat("generate after ", step.text.size(), " bytes, cancel after ", step.read);
    case StepKind::kInterject:
      return absl::StrCat("generate ", step.max_tokens, " after ", step.text.size(), " bytes, ",
                          step.input.size(), " bytes more after ", step.read);
    case StepKind::kAppend:
      return absl::StrCat("append ", step.text.size(), " bytes");
    case StepKind::kRewind:
      return absl::StrCat("rewind by ", step.tokens_back);
    case StepKind::kFork:
      return "fork";
    case StepKind::kCheckpoint:
      return "checkpoint";
  }
  return "";
}

void SetAnswer(const Step& step, v1::SamplingParams& sampling, v1::StopParams& stop) {
  sampling.set_temperature(static_cast<float>(step.temperature));
  sampling.set_seed(step.seed);
  stop.set_max_tokens(step.max_tokens);
  stop.set_ignore_eos(true);
}

}  // namespace

Conversation::Conversation(client::Client& client, Script script, const OpenState& open_state,
                           absl::Duration patience, const SeenSession* seen)
    : client_(client),
      script_(std::move(script)),
      open_state_(open_state),
      patience_(patience),
      seen_before_(seen) {}

bool Conversation::Step() {
  absl::Status status = absl::OkStatus();
  if (id_.empty()) {
    status = Open();
  } else if (next_ < script_.steps.size()) {
    status = Do(script_.steps[next_++]);
  } else {
    status = End();
    if (!status.ok()) seen_.error = absl::StrCat("at the end: ", client::OneLine(status));
    return false;
  }
  if (status.ok()) return true;
  seen_.error =
      absl::StrCat("session ", id_.substr(0, 8), " at step ", next_, ": ", client::OneLine(status));
  stream_ = nullptr;
  return false;
}

absl::Status Conversation::Insist(const std::function<absl::Status()>& call) const {
  const absl::Time end = absl::Now() + patience_;
  for (;;) {
    absl::Status status = call();
    const bool again = client::BrokeOff(status) || absl::IsResourceExhausted(status) ||
                       absl::IsDeadlineExceeded(status);
    if (!again || absl::Now() > end) return status;
    absl::SleepFor(kPause);
  }
}

absl::Status Conversation::Open() {
  // One that was opened, and of which nobody hears because the answer got lost, expires.
  if (script_.on_a_stream) return OpenStream();
  return Insist([this] {
    GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.CreateSession({}));
    id_ = info.session_id();
    return absl::OkStatus();
  });
}

absl::Status Conversation::OpenStream() {
  return Insist([this] {
    v1::SessionOpen open;
    open.set_session_id(id_);
    open.set_keep(true);
    open.set_initial_credit(48);
    GMA_ASSIGN_OR_RETURN(stream_, client_.OpenSession(open));
    id_ = stream_->id();
    return absl::OkStatus();
  });
}

absl::Status Conversation::Do(const chaos::Step& step) {
  SeenTurn turn = {.what = NameOf(step), .events = {}, .end = {}};
  absl::Status status = absl::OkStatus();
  switch (step.kind) {
    case StepKind::kGenerate:
    case StepKind::kCancel:
    case StepKind::kInterject:
      status = Generate(step, turn);
      break;
    case StepKind::kAppend:
      status = Append(step, turn);
      break;
    case StepKind::kRewind:
      status = Rewind(step);
      break;
    case StepKind::kFork:
      status = Fork();
      break;
    case StepKind::kCheckpoint:
      status = Insist([&] { return client_.CheckpointSession(id_, step.text).status(); });
      break;
  }
  if (status.ok()) status = LookAt(turn);
  if (status.ok() && step.kind == StepKind::kInterject && seen_before_ == nullptr) {
    status = PlaceInput(turn);
  }
  seen_.turns.push_back(std::move(turn));
  return status;
}

absl::Status Conversation::LookAt(SeenTurn& turn) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.GetSession(id_));
  context_ = turn.context_tokens = info.context_tokens();
  turn.last_sequence = base_ + info.last_sequence();
  return absl::OkStatus();
}

absl::Status Conversation::Generate(const chaos::Step& step, SeenTurn& turn) {
  const size_t number = seen_.turns.size();
  if (seen_before_ == nullptr || number >= seen_before_->turns.size()) {
    return Read(*Begin(step), step, turn);
  }
  return GenerateAs(seen_before_->turns[number], step, turn);
}

absl::Status Conversation::GenerateAs(const SeenTurn& seen, chaos::Step step, SeenTurn& turn) {
  const StepKind kind = std::exchange(step.kind, StepKind::kGenerate);
  if (kind == StepKind::kCancel) {
    if (seen.cancelled_after == 0) return absl::InternalError("there is no answer to compare with");
    step.max_tokens = seen.cancelled_after;
    GMA_RETURN_IF_ERROR(Read(*Begin(step), step, turn));
    turn.end = kCut;
    return absl::OkStatus();
  }
  if (kind == StepKind::kInterject && seen.input_after > 0) return GenerateAround(seen, step, turn);
  GMA_RETURN_IF_ERROR(Read(*Begin(step), step, turn));
  if (kind != StepKind::kInterject) return absl::OkStatus();
  return Append({.kind = StepKind::kAppend, .text = step.input}, turn);
}

absl::Status Conversation::GenerateAround(const SeenTurn& seen, chaos::Step step, SeenTurn& turn) {
  const int64_t tokens = std::exchange(step.max_tokens, seen.input_after);
  GMA_RETURN_IF_ERROR(Read(*Begin(step), step, turn));
  turn.events.pop_back();  // Finished
  GMA_RETURN_IF_ERROR(Append({.kind = StepKind::kAppend, .text = step.input}, turn));
  step.text = "";
  step.max_tokens = tokens - seen.input_after;
  SeenTurn rest;
  GMA_RETURN_IF_ERROR(Read(*Begin(step), step, rest));
  turn.events.insert(turn.events.end(), rest.events.begin() + 1, rest.events.end());
  turn.end = rest.end;
  // The end and the beginning in the middle are no events of the one answer.
  base_ -= 2;
  uint64_t number = turn.events.front().sequence;
  for (SeenEvent& event : turn.events) event.sequence = number++;
  return absl::OkStatus();
}

std::unique_ptr<client::AnswerStream> Conversation::Begin(const chaos::Step& step) {
  if (stream_ != nullptr) {
    v1::SessionGenerate command;
    if (!step.text.empty()) command.mutable_input()->set_text(step.text);
    SetAnswer(step, *command.mutable_sampling(), *command.mutable_stop());
    command.set_after(last_);
    return stream_->Generate(command);
  }
  v1::GenerateRequest request;
  request.set_session_id(id_);
  if (!step.text.empty()) request.mutable_input()->set_text(step.text);
  SetAnswer(step, *request.mutable_sampling(), *request.mutable_stop());
  request.set_after(last_);
  return client_.Generate(request);
}

absl::Status Conversation::Read(client::AnswerStream& answer, const chaos::Step& step,
                                SeenTurn& turn) {
  int64_t drawn = 0;
  bool disturbed = false;
  for (;;) {
    GMA_ASSIGN_OR_RETURN(const std::optional<client::AnswerPiece> piece, answer.Next());
    if (!piece.has_value()) break;
    const size_t numbers = piece->tokens.size() + (piece->finished ? 1 : 0);
    // Started is no piece; its number is what the first piece skips.
    const uint64_t last = base_ + answer.last_sequence(), first = last - numbers + 1;
    if (turn.events.empty()) turn.events.push_back({first - 1, SeenEvent::kNoToken});
    for (size_t i = 0; i < piece->tokens.size(); ++i) {
      turn.events.push_back({first + i, piece->tokens[i].id()});
    }
    drawn += static_cast<int64_t>(piece->tokens.size());
    if (piece->finished) {
      turn.events.push_back({last, SeenEvent::kNoToken});
      turn.end = v1::FinishReason_Name(piece->finished->reason());
    }
    if (drawn < step.read || std::exchange(disturbed, true)) continue;
    if (step.kind == StepKind::kCancel) answer.Cancel();
    if (step.kind == StepKind::kInterject) {
      v1::Input input;
      input.set_text(step.input);
      GMA_ASSIGN_OR_RETURN(input_context_, stream_->Append(std::move(input)));
    }
  }
  tokens_ += drawn;
  last_ = answer.last_sequence();
  resumes_ += answer.resumes();
  if (turn.end.empty()) return absl::InternalError("the answer ended without Finished");
  if (step.kind != StepKind::kCancel) return absl::OkStatus();
  turn.cancelled_after = drawn;
  if (std::exchange(turn.end, kCut) == "FINISH_REASON_CANCELLED") return absl::OkStatus();
  return absl::InternalError("the answer was cancelled and went on to its end");
}

absl::Status Conversation::PlaceInput(SeenTurn& turn) {
  const auto drawn = static_cast<int64_t>(turn.events.size()) - 2;
  const int64_t behind = context_ - input_context_;
  if (behind == 0) {
    turn.events.push_back({base_ + ++last_, SeenEvent::kNoToken});
    return absl::OkStatus();
  }
  turn.input_after = drawn - behind;
  if (turn.input_after < 1 || turn.input_after >= drawn) {
    return absl::InternalError(absl::StrCat("input stands ", behind, " tokens before the end of ",
                                            drawn, " that were drawn"));
  }
  const SeenEvent before = turn.events[static_cast<size_t>(turn.input_after)];
  turn.events.insert(turn.events.begin() + turn.input_after + 1,
                     {before.sequence + 1, SeenEvent::kNoToken});
  return absl::OkStatus();
}

absl::Status Conversation::Append(const chaos::Step& step, SeenTurn& turn) {
  v1::Input input;
  input.set_text(step.text);
  if (stream_ != nullptr) {
    GMA_RETURN_IF_ERROR(stream_->Append(std::move(input)).status());
  } else {
    v1::AppendRequest request;
    request.set_session_id(id_);
    *request.mutable_input() = std::move(input);
    request.set_after(last_);
    GMA_RETURN_IF_ERROR(client_.AppendToSession(request).status());
  }
  turn.events.push_back({base_ + ++last_, SeenEvent::kNoToken});
  return absl::OkStatus();
}

absl::Status Conversation::Rewind(const chaos::Step& step) {
  // To the same position however often it is tried.
  const int64_t target = std::max<int64_t>(context_ - step.tokens_back, context_ / 2);
  return Insist([&] { return client_.RewindSession(id_, target, last_).status(); });
}

absl::Status Conversation::Fork() {
  GMA_RETURN_IF_ERROR(Insist([this] {
    GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, client_.ForkSession(id_));
    id_ = info.session_id();
    return absl::OkStatus();
  }));
  base_ += std::exchange(last_, 0);
  return stream_ == nullptr ? absl::OkStatus() : OpenStream();
}

absl::Status Conversation::End() {
  if (stream_ != nullptr) {
    GMA_RETURN_IF_ERROR(stream_->End().status());
    stream_ = nullptr;
  }
  std::string blob;
  GMA_RETURN_IF_ERROR(Insist([&] {
    GMA_ASSIGN_OR_RETURN(blob, client_.ExportSession(id_));
    return absl::OkStatus();
  }));
  GMA_ASSIGN_OR_RETURN(seen_.state, open_state_(blob));
  const absl::Status closed = Insist([this] { return client_.CloseSession(id_).status(); });
  // The first call may have done it and its answer got lost.
  return absl::IsNotFound(closed) ? absl::OkStatus() : closed;
}

}  // namespace gma::chaos
