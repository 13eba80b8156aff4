// Full duplex: input that enters an answer between two of its tokens, and barge-in.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/engine/engine_core.h"
#include "server/engine/retry_hint.h"

namespace gma {
namespace {

constexpr size_t kMaxUnfed = 1 << 20;  // tokens of one turn that wait to be fed

}  // namespace

Request* EngineCore::AnswerOf(const AppendSpec& spec) {
  if (spec.turn == nullptr) return nullptr;
  const auto it = by_stream_.find(spec.turn.get());
  if (it == by_stream_.end() || it->second->is_private() || !it->second->begun()) return nullptr;
  return it->second;
}

bool EngineCore::Interject(AppendMessage& message) {
  Request* const answer = AnswerOf(message.spec);
  if (answer == nullptr) return false;
  if (answer->catches_up()) {
    EngineMessage again = std::move(message);
    WaitIn(for_room_, again);
    return true;
  }
  shared_->waiting.fetch_sub(1);  // it takes no turn of its own
  const InputTokens& input = message.spec.input;
  const size_t unfed = answer->feed.size() - answer->next;
  if (unfed + input.close_tokens.size() + input.tokens.size() > kMaxUnfed) {
    message.done(RetryLater(
        absl::StrCat("the turn has ", unfed, " tokens still to feed, and may have ", kMaxUnfed),
        shared_->retry_after_ms.load()));
    return true;
  }
  EnterInput(*answer, input.close_tokens, input.tokens, message.spec.request_id, /*again=*/false);
  SessionSnapshotInfo info = InfoOf(*answer->session);
  info.entered_turn = true;
  message.done(info);
  return true;
}

void EngineCore::EnterInput(Request& request, absl::Span<const int32_t> close,
                            absl::Span<const int32_t> input, std::optional<uint64_t> request_id,
                            bool again) {
  Candidate& answer = request.candidates.front();
  Session& session = *request.session;
  const int64_t unfed =
      answer.decoding ? 1 : static_cast<int64_t>(request.feed.size() - request.next);
  const std::vector<int32_t> tokens = session.Interject(close, input, unfed);
  if (!again) OnInterjection(request, answer.completion_tokens, tokens);
  if (answer.decoding) {
    request.prompt_before = request.prompt_tokens();
    request.feed.assign(1, answer.decode_token);
    request.next = 0;
    request.feeds_drawn = true;
    answer.decoding = false;
  }
  request.feed.insert(request.feed.end(), tokens.begin(), tokens.end());
  answer.sampler->ObservePrompt(tokens);
  const auto count = static_cast<int64_t>(tokens.size());
  AppendedEvent event = {.context_tokens = session.fed() + unfed + count,
                         .tokens = count,
                         .text = answer.judge->Flush(),
                         .request_id = request_id};
  // What was not written down yet is not told either.
  if (request.state == RequestState::kQueued || request.held_by != 0) {
    request.entered.push_back(std::move(event));
  } else {
    Emit(request, std::move(event));
  }
}

void EngineCore::EnterRecorded(Request& request) {
  const int64_t drawn = request.candidates.front().completion_tokens;
  while (!request.recorded.empty() && request.recorded.front().drawn == drawn) {
    const RecordedInput input = std::move(request.recorded.front());
    request.recorded.pop_front();
    EnterInput(request, {}, input.tokens, /*request_id=*/{}, /*again=*/true);
  }
}

void EngineCore::OnMessage(BargeInMessage message) {
  Request* const answer = AnswerOf(message.spec);
  if (answer != nullptr && answer->catches_up()) {
    EngineMessage again = std::move(message);
    return WaitIn(for_room_, again);
  }
  std::unique_ptr<Request> append = NewAppend(message.spec, message.accepted_at);
  append->done = std::move(message.done);
  if (answer == nullptr) return Admit(std::move(append));
  // First of those that wait for the session, and so the turn that begins when the answer ends.
  append->state = RequestState::kWaitingForSession;
  append->session = answer->session;
  turns_[answer->session->number()].waiting.push_front(append.get());
  requests_.push_back(std::move(append));
  Cancel(*answer, /*by_client=*/true);
}

}  // namespace gma
