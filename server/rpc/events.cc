#include "server/rpc/events.h"

#include <variant>

namespace gma {
namespace {

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kEndOfText:
      return v1::FINISH_REASON_END_OF_TEXT;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kNone:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void SetBytes(std::string& to, std::string_view from) { to.assign(from.data(), from.size()); }

void FillToken(const TokenEvent& event, const AnswerLabels& labels, v1::Token& token) {
  token.set_id(event.sampled.token);
  token.set_text(event.text);
  if (!event.logprobs) return;
  token.set_logprob(event.sampled.logprob);
  for (const TokenLogprob& top : event.sampled.top_logprobs) {
    v1::TokenLogprob& entry = *token.add_top_logprobs();
    entry.set_token(top.token);
    entry.set_logprob(top.logprob);
    // The model may have more rows than the tokenizer has names.
    if (top.token < labels.model->tokenizer->vocab_size()) {
      SetBytes(*entry.mutable_text(), labels.model->tokenizer->TokenBytes(top.token));
    }
  }
}

void FillFinished(const FinishedEvent& event, v1::Finished& finished) {
  finished.set_reason(ToProto(event.reason));
  finished.set_candidate(event.candidate);
  finished.set_text(event.text);
  v1::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(event.usage.prompt_tokens);
  usage.set_cached_tokens(event.usage.cached_tokens);
  usage.set_completion_tokens(event.usage.completion_tokens);
  v1::Timings& timings = *finished.mutable_timings();
  timings.set_queue_seconds(event.timings.queue);
  timings.set_prefill_seconds(event.timings.prefill);
  timings.set_decode_seconds(event.timings.decode);
  timings.set_first_token_seconds(event.timings.first_token);
}

void FillAppended(const AppendedEvent& event, v1::Appended& appended) {
  appended.set_context_tokens(event.context_tokens);
  appended.set_tokens(event.tokens);
  appended.set_text(event.text);
}

// Of the message that the event answers; Generate has none.
void SetRequestId(v1::GenerateResponse&, uint64_t) {}
void SetRequestId(v1::SessionResponse& response, uint64_t id) { response.set_request_id(id); }

void FillStarted(const StartedEvent& event, const AnswerLabels& labels, v1::Started& started) {
  started.set_model(labels.model->name);
  started.set_session_id(labels.session_id);
  started.set_seed(event.seed);
  started.set_model_fingerprint(labels.model->fingerprint);
}

}  // namespace

template <typename Response>
void PackEvents(absl::Span<const StreamEvent> events, const AnswerLabels& labels,
                absl::FunctionRef<void(Response&)> send) {
  for (size_t i = 0; i < events.size();) {
    Response response;
    response.set_sequence(static_cast<uint64_t>(SequenceOf(events[i])));
    SetRequestId(response, labels.request_id);
    if (const auto* started = std::get_if<StartedEvent>(&events[i])) {
      FillStarted(*started, labels, *response.mutable_started());
      ++i;
    } else if (const auto* finished = std::get_if<FinishedEvent>(&events[i])) {
      FillFinished(*finished, *response.mutable_finished());
      ++i;
    } else if (const auto* appended = std::get_if<AppendedEvent>(&events[i])) {
      FillAppended(*appended, *response.mutable_appended());
      SetRequestId(response, appended->request_id.value_or(labels.request_id));
      ++i;
    } else {
      v1::Tokens& tokens = *response.mutable_tokens();
      tokens.set_candidate(std::get<TokenEvent>(events[i]).candidate);
      for (; i < events.size(); ++i) {
        const auto* token = std::get_if<TokenEvent>(&events[i]);
        if (token == nullptr || token->candidate != tokens.candidate()) break;
        FillToken(*token, labels, *tokens.add_tokens());
      }
    }
    send(response);
  }
}

template void PackEvents<v1::GenerateResponse>(absl::Span<const StreamEvent>, const AnswerLabels&,
                                               absl::FunctionRef<void(v1::GenerateResponse&)>);
template void PackEvents<v1::SessionResponse>(absl::Span<const StreamEvent>, const AnswerLabels&,
                                              absl::FunctionRef<void(v1::SessionResponse&)>);

}  // namespace gma
