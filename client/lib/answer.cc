#include "client/lib/answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace gma::client {

absl::Status AnswerAssembler::CheckCandidate(int32_t candidate) const {
  if (candidate < 0 || candidate >= candidates_) {
    return absl::InternalError(
        absl::StrCat("the server sent candidate ", candidate, " of ", candidates_));
  }
  if (finished_.count(candidate) != 0) {
    return absl::InternalError(
        absl::StrCat("the server went on after the end of candidate ", candidate));
  }
  return absl::OkStatus();
}

absl::StatusOr<AnswerPiece> AnswerAssembler::Feed(v1::Tokens tokens) {
  GMA_RETURN_IF_ERROR(CheckCandidate(tokens.candidate()));
  AnswerPiece piece;
  piece.candidate = tokens.candidate();
  Utf8Stream& text = text_[piece.candidate];
  piece.tokens.reserve(tokens.tokens_size());
  for (v1::Token& token : *tokens.mutable_tokens()) {
    piece.text += text.Push(token.text());
    piece.tokens.push_back(std::move(token));
  }
  return piece;
}

absl::StatusOr<AnswerPiece> AnswerAssembler::Feed(v1::Finished finished) {
  GMA_RETURN_IF_ERROR(CheckCandidate(finished.candidate()));
  AnswerPiece piece;
  piece.candidate = finished.candidate();
  Utf8Stream& text = text_[piece.candidate];
  piece.text = text.Push(finished.text());
  piece.text += text.Flush();
  finished_[piece.candidate] = finished;
  piece.finished = std::move(finished);
  return piece;
}

AnswerPiece AnswerAssembler::Feed(v1::Appended appended) {
  AnswerPiece piece;  // only answers on a session are given input, and those have one candidate
  piece.text = text_[0].Push(appended.text());
  piece.appended = std::move(appended);
  return piece;
}

absl::StatusOr<std::optional<AnswerPiece>> AnswerStream::Next() {
  while (!assembler_.complete()) {
    GMA_ASSIGN_OR_RETURN(std::optional<v1::GenerateResponse> event, NextEvent());
    if (!event.has_value()) return std::nullopt;
    if (event->sequence() > 0) {
      const int more = event->has_tokens() ? event->tokens().tokens_size() - 1 : 0;
      last_sequence_ = event->sequence() + static_cast<uint64_t>(more);
    }
    switch (event->event_case()) {
      case v1::GenerateResponse::kStarted:
        assembler_.Feed(event->started());
        break;
      case v1::GenerateResponse::kTokens:
        return assembler_.Feed(std::move(*event->mutable_tokens()));
      case v1::GenerateResponse::kFinished:
        return assembler_.Feed(std::move(*event->mutable_finished()));
      case v1::GenerateResponse::kAppended:
        return assembler_.Feed(std::move(*event->mutable_appended()));
      default:  // an event of a newer server
        break;
    }
  }
  return std::nullopt;
}

absl::Status SequenceCheck::Accept(uint64_t sequence, int64_t count, bool begins) {
  if (sequence == 0) return absl::OkStatus();
  if (begins && sequence > next_) next_ = sequence;
  if (sequence != next_) {
    return absl::DataLossError(absl::StrCat("the stream lost or repeated events: sequence ",
                                            sequence, " came where ", next_, " was due"));
  }
  next_ += static_cast<uint64_t>(count);
  return absl::OkStatus();
}

}  // namespace gma::client
