#include "tests/soak/subject.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace gma::soak {
namespace {

constexpr int kMostFillers = 1000;  // sessions that drive another one down

v1::Input InputOf(const std::vector<int32_t>& tokens) {
  v1::Input input;
  input.mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
  return input;
}

// Fills `to`, a GenerateRequest or a SessionGenerate.
template <typename Request>
void AskFor(const Turn& turn, int32_t top_logprobs, Request& to) {
  if (!turn.input.empty()) *to.mutable_input() = InputOf(turn.input);
  v1::SamplingParams& sampling = *to.mutable_sampling();
  sampling.set_temperature(turn.kind == Turn::Kind::kSampled ? 0.8 : 0);
  sampling.set_seed(turn.seed);
  sampling.set_top_logprobs(top_logprobs);
  to.mutable_stop()->set_max_tokens(turn.answer);
  to.mutable_stop()->set_ignore_eos(true);
}

// The rest of an answer.
absl::Status Drain(client::AnswerStream& stream, Outcome& outcome) {
  for (;;) {
    GMA_ASSIGN_OR_RETURN(const std::optional<client::AnswerPiece> piece, stream.Next());
    if (!piece.has_value()) return absl::OkStatus();
    for (const v1::Token& token : piece->tokens) {
      outcome.drawn.push_back(token.SerializeAsString());
    }
    if (piece->finished.has_value()) {
      outcome.decode_seconds += piece->finished->timings().decode_seconds();
    }
  }
}

absl::Status CheckLength(const Outcome& outcome, const Turn& turn) {
  if (static_cast<int32_t>(outcome.drawn.size()) == turn.answer) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("an answer of ", turn.answer, " tokens came as ", outcome.drawn.size()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Subject>> Subject::Start(const std::string& program,
                                                        std::vector<std::string> flags) {
  std::unique_ptr<Subject> subject(new Subject());
  GMA_ASSIGN_OR_RETURN(subject->server_, testing::RunningServer::Start(program, std::move(flags)));
  client::ClientOptions options;
  options.address = subject->server_->address();
  options.deadline = options.resume_for = absl::Minutes(10);  // on a busy machine, too
  GMA_ASSIGN_OR_RETURN(subject->client_, client::Client::Create(options));
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, subject->client_->CreateSession({}));
  subject->session_ = info.session_id();
  return subject;
}

absl::StatusOr<Outcome> Subject::Take(const Turn& turn,
                                      const std::function<absl::Status()>& meanwhile) {
  if (turn.kind == Turn::Kind::kAppend) return Append(turn.input);
  if (turn.kind == Turn::Kind::kDuplex) return Duplex(turn);
  return Answer(session_, turn, 0, meanwhile);
}

absl::StatusOr<Outcome> Subject::Append(const std::vector<int32_t>& tokens) {
  v1::AppendRequest request;
  request.set_session_id(session_);
  *request.mutable_input() = InputOf(tokens);
  const absl::Time start = absl::Now();
  GMA_RETURN_IF_ERROR(client_->AppendToSession(std::move(request)).status());
  Outcome outcome;
  outcome.append_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return outcome;
}

absl::StatusOr<Outcome> Subject::Answer(const std::string& session, const Turn& turn,
                                        int32_t top_logprobs,
                                        const std::function<absl::Status()>& meanwhile) {
  v1::GenerateRequest request;
  request.set_session_id(session);
  AskFor(turn, top_logprobs, request);
  const std::unique_ptr<client::AnswerStream> stream = client_->Generate(std::move(request));
  Outcome outcome;
  while (meanwhile != nullptr && outcome.drawn.empty()) {
    GMA_ASSIGN_OR_RETURN(const std::optional<client::AnswerPiece> piece, stream->Next());
    if (!piece.has_value()) break;
    for (const v1::Token& token : piece->tokens) {
      outcome.drawn.push_back(token.SerializeAsString());
    }
    if (!outcome.drawn.empty()) GMA_RETURN_IF_ERROR(meanwhile());
  }
  GMA_RETURN_IF_ERROR(Drain(*stream, outcome));
  GMA_RETURN_IF_ERROR(CheckLength(outcome, turn));
  return outcome;
}

absl::StatusOr<Outcome> Subject::Duplex(const Turn& turn) {
  GMA_ASSIGN_OR_RETURN(const v1::SessionInfo before, Info());
  v1::SessionOpen open;
  open.set_session_id(session_);
  open.set_keep(true);
  GMA_ASSIGN_OR_RETURN(const std::unique_ptr<client::Session> session,
                       client_->OpenSession(std::move(open)));
  v1::SessionGenerate generate;
  AskFor(turn, 0, generate);
  Outcome outcome;
  {
    const std::unique_ptr<client::AnswerStream> stream = session->Generate(std::move(generate));
    // Input that came before the first token would be fed before it.
    while (outcome.drawn.empty()) {
      GMA_ASSIGN_OR_RETURN(const std::optional<client::AnswerPiece> piece, stream->Next());
      if (!piece.has_value()) break;
      for (const v1::Token& token : piece->tokens) {
        outcome.drawn.push_back(token.SerializeAsString());
      }
    }
    GMA_ASSIGN_OR_RETURN(const int64_t context, session->Append(InputOf(turn.interjection)));
    outcome.drawn_before = context - static_cast<int64_t>(turn.interjection.size()) -
                           before.context_tokens() - static_cast<int64_t>(turn.input.size());
    GMA_RETURN_IF_ERROR(Drain(*stream, outcome));
  }
  GMA_RETURN_IF_ERROR(session->End().status());
  GMA_RETURN_IF_ERROR(CheckLength(outcome, turn));
  return outcome;
}

absl::StatusOr<Outcome> Subject::TakeApart(const Turn& turn, int64_t drawn_before) {
  if (turn.kind != Turn::Kind::kDuplex) return Take(turn, nullptr);
  Turn part = turn;
  part.kind = Turn::Kind::kGreedy;
  part.answer = static_cast<int32_t>(drawn_before);
  GMA_ASSIGN_OR_RETURN(Outcome outcome, Answer(session_, part, 0));
  if (drawn_before == turn.answer) {
    GMA_RETURN_IF_ERROR(Append(turn.interjection).status());
    return outcome;
  }
  part.input = turn.interjection;
  part.answer = turn.answer - static_cast<int32_t>(drawn_before);
  GMA_ASSIGN_OR_RETURN(const Outcome rest, Answer(session_, part, 0));
  outcome.drawn.insert(outcome.drawn.end(), rest.drawn.begin(), rest.drawn.end());
  outcome.decode_seconds = 0;  // of two parts
  return outcome;
}

absl::Status Subject::Park(v1::SessionTier tier) {
  std::vector<std::string> fillers;
  bool there = false;
  while (!there && fillers.size() < kMostFillers) {
    GMA_ASSIGN_OR_RETURN(const v1::SessionInfo filler, client_->CreateSession({}));
    fillers.push_back(filler.session_id());
    absl::SleepFor(absl::Milliseconds(2));  // writes are on their way
    GMA_ASSIGN_OR_RETURN(const v1::SessionInfo info, Info());
    there = info.tier() == tier;
  }
  for (const std::string& filler : fillers) {
    GMA_RETURN_IF_ERROR(client_->CloseSession(filler).status());
  }
  if (there) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(v1::SessionTier_Name(tier), " was not reached by ",
                                          kMostFillers, " sessions more"));
}

}  // namespace gma::soak
