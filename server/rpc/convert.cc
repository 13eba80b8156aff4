#include "server/rpc/convert.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/options/limits.h"

namespace gma {
namespace {

absl::StatusOr<std::vector<int32_t>> ConvertTokens(const v1::TokenInput& tokens,
                                                   const ServedModel& model) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kInputTokens, tokens.ids_size()));
  for (int i = 0; i < tokens.ids_size(); ++i) {
    if (tokens.ids(i) < 0 || tokens.ids(i) >= model.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("input.tokens.ids[", i, "] is ", tokens.ids(i),
                                                     ", must be a token id in [0, ",
                                                     model.vocab_size, ")"));
    }
  }
  return std::vector<int32_t>(tokens.ids().begin(), tokens.ids().end());
}

absl::StatusOr<InputTokens> ConvertChat(const v1::ChatInput& chat, const ServedModel& model) {
  if (model.chat == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("input.chat: model \"", model.name, "\" has no chat format; use input.text"));
  }
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kChatMessages, chat.messages_size()));
  size_t bytes = 0;  // the message size limit keeps the sum far from overflow
  for (const v1::ChatMessage& message : chat.messages()) {
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kChatRoleBytes, message.role().size()));
    bytes += message.content().size();
  }
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kChatBytes, bytes));
  std::vector<ChatMessage> messages;
  messages.reserve(chat.messages_size());
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({message.role(), message.content()});
  }
  absl::StatusOr<RenderedChat> chat_tokens = model.chat->Render(messages, /*first=*/false);
  if (!chat_tokens.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("input.chat.", chat_tokens.status().message()));
  }
  InputTokens converted;
  converted.tokens = std::move(chat_tokens->tokens);
  converted.marks = std::move(chat_tokens->message_ends);
  converted.marks.pop_back();  // what is asked now is seldom how another request begins
  converted.close_tokens = model.chat->assistant_suffix();
  if (messages.front().role != "system") converted.opening_tokens = model.chat_opening;
  return converted;
}

absl::StatusOr<int64_t> ConvertAfter(uint64_t after) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kAfter, static_cast<double>(after)));
  return static_cast<int64_t>(after);
}

absl::StatusOr<GenerateSpec> ConvertAnswer(const v1::Input& input,
                                           const v1::SamplingParams& sampling,
                                           const v1::StopParams& stop, int32_t priority,
                                           const ServedModel& model, uint64_t fallback_seed) {
  GenerateSpec spec;
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kPriority, priority));
  spec.priority = priority;
  GMA_ASSIGN_OR_RETURN(spec.sampling, ConvertSampling(sampling, model, fallback_seed));
  GMA_ASSIGN_OR_RETURN(spec.stop, ConvertStop(stop, model));
  GMA_RETURN_IF_ERROR(CheckTogether(spec.sampling, spec.stop, model));
  // Last, because it is the one that costs time: everything else has been accepted.
  GMA_ASSIGN_OR_RETURN(spec.input, ConvertInput(input, model, /*required=*/false));
  return spec;
}

template <typename Request>
absl::Status ConvertAfter(const Request& request, std::optional<int64_t>& after) {
  if (!request.has_after()) return absl::OkStatus();
  GMA_ASSIGN_OR_RETURN(after, ConvertAfter(request.after()));
  return absl::OkStatus();
}

// What makes a turn on a session happen once.
template <typename Request, typename Spec>
absl::Status ConvertOnce(const Request& request, Spec& spec) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kRequestKey, request.request_key().size()));
  spec.request_key = request.request_key();
  return ConvertAfter(request, spec.after);
}

}  // namespace

std::string Quoted(const std::string& text) {
  constexpr size_t kShownBytes = 64;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShownBytes)),
                      text.size() > kShownBytes ? "...\"" : "\"");
}

absl::Status CheckModelName(const std::string& name, const ServedModel& model) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kModelBytes, name.size()));
  if (name.empty() || name == model.name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model is ", Quoted(name), ", must be empty or \"",
                                          model.name, "\", the server's only one"));
}

absl::StatusOr<SessionId> ConvertSessionId(const std::string& hex) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kSessionIdBytes, hex.size()));
  absl::StatusOr<SessionId> id = SessionId::FromHex(hex);
  if (id.ok()) return id;
  return absl::InvalidArgumentError(
      absl::StrCat("session_id is ", Quoted(hex), ", must be 32 hex digits"));
}

absl::StatusOr<absl::Duration> ConvertTtl(int64_t seconds) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kTtlSeconds, static_cast<double>(seconds)));
  return absl::Seconds(seconds);
}

absl::StatusOr<InputTokens> ConvertInput(const v1::Input& input, const ServedModel& model,
                                         bool required) {
  InputTokens converted;
  switch (input.kind_case()) {
    case v1::Input::kText:
      GMA_RETURN_IF_ERROR(CheckLimit(limits::kInputBytes, input.text().size()));
      converted.tokens = model.tokenizer->EncodeText(input.text());
      return converted;
    case v1::Input::kTokens: {
      GMA_ASSIGN_OR_RETURN(converted.tokens, ConvertTokens(input.tokens(), model));
      return converted;
    }
    case v1::Input::kChat:
      return ConvertChat(input.chat(), model);
    case v1::Input::KIND_NOT_SET:
      break;
  }
  if (required) return absl::InvalidArgumentError("input is empty, must be text, tokens or chat");
  return converted;
}

absl::StatusOr<GenerateSpec> ConvertGenerate(const v1::GenerateRequest& request,
                                             const ServedModel& model, uint64_t fallback_seed) {
  GMA_RETURN_IF_ERROR(CheckModelName(request.model(), model));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kCandidates, request.n()));
  const bool has_session = !request.session_id().empty();
  GenerateSpec once;
  GMA_RETURN_IF_ERROR(ConvertOnce(request, once));
  std::optional<SessionId> session;
  if (has_session) {
    GMA_ASSIGN_OR_RETURN(session, ConvertSessionId(request.session_id()));
    if (request.n() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("n is ", request.n(), ", must be 1 with a session_id"));
    }
  } else if (!request.request_key().empty() || request.has_after()) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.has_after() ? "after" : "request_key",
        " is set, must be absent without a session_id: a private request has no turns"));
  } else if (request.input().kind_case() == v1::Input::KIND_NOT_SET) {
    return absl::InvalidArgumentError(
        "input is empty, must be text, tokens or chat without a session_id");
  }
  GMA_ASSIGN_OR_RETURN(GenerateSpec spec,
                       ConvertAnswer(request.input(), request.sampling(), request.stop(),
                                     request.priority(), model, fallback_seed));
  spec.session = session;
  spec.request_key = std::move(once.request_key);
  spec.after = once.after;
  spec.n = request.n() == 0 ? 1 : request.n();
  spec.wait_if_busy = request.wait_if_busy();
  return spec;
}

absl::StatusOr<GenerateSpec> ConvertSessionGenerate(const v1::SessionGenerate& request,
                                                    const ServedModel& model,
                                                    uint64_t fallback_seed) {
  GenerateSpec once;
  GMA_RETURN_IF_ERROR(ConvertOnce(request, once));
  GMA_ASSIGN_OR_RETURN(GenerateSpec spec,
                       ConvertAnswer(request.input(), request.sampling(), request.stop(),
                                     request.priority(), model, fallback_seed));
  spec.request_key = std::move(once.request_key);
  spec.after = once.after;
  return spec;
}

absl::StatusOr<ResumeSpec> ConvertResume(const v1::ResumeRequest& request) {
  GMA_ASSIGN_OR_RETURN(const SessionId session, ConvertSessionId(request.session_id()));
  GMA_ASSIGN_OR_RETURN(const int64_t after, ConvertAfter(request.after()));
  return ResumeSpec{.owner = {}, .session = session, .after = after};
}

absl::StatusOr<AppendSpec> ConvertAppend(const v1::AppendRequest& request,
                                         const ServedModel& model) {
  GMA_ASSIGN_OR_RETURN(const SessionId session, ConvertSessionId(request.session_id()));
  AppendSpec spec{
      .owner = {}, .session = session, .input = {}, .wait_if_busy = request.wait_if_busy()};
  GMA_RETURN_IF_ERROR(ConvertOnce(request, spec));
  GMA_ASSIGN_OR_RETURN(spec.input, ConvertInput(request.input(), model, /*required=*/true));
  return spec;
}

absl::StatusOr<ConvertedAppend> ConvertSessionAppend(const v1::SessionAppend& request,
                                                     const ServedModel& model) {
  ConvertedAppend append;
  GMA_RETURN_IF_ERROR(ConvertOnce(request, append));
  GMA_ASSIGN_OR_RETURN(append.input, ConvertInput(request.input(), model, /*required=*/true));
  return append;
}

absl::StatusOr<RewindSpec> ConvertRewind(const v1::RewindRequest& request) {
  GMA_ASSIGN_OR_RETURN(const SessionId session, ConvertSessionId(request.session_id()));
  RewindSpec spec{.owner = {}, .session = session, .target = int64_t{0}};
  GMA_RETURN_IF_ERROR(ConvertAfter(request, spec.after));
  switch (request.target_case()) {
    case v1::RewindRequest::kCheckpoint:
      GMA_RETURN_IF_ERROR(CheckLimit(limits::kRewindCheckpoint, request.checkpoint().size()));
      spec.target = request.checkpoint();
      return spec;
    case v1::RewindRequest::kContextTokens:
      GMA_RETURN_IF_ERROR(
          CheckLimit(limits::kRewindTokens, static_cast<double>(request.context_tokens())));
      spec.target = request.context_tokens();
      return spec;
    case v1::RewindRequest::TARGET_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("target is not set, must be checkpoint or context_tokens");
}

absl::StatusOr<ConvertedOpen> ConvertOpen(const v1::SessionOpen& open, const ServedModel& model) {
  GMA_RETURN_IF_ERROR(CheckModelName(open.model(), model));
  ConvertedOpen converted{};
  if (!open.session_id().empty()) {
    GMA_ASSIGN_OR_RETURN(converted.session, ConvertSessionId(open.session_id()));
  }
  GMA_ASSIGN_OR_RETURN(converted.ttl, ConvertTtl(open.ttl_seconds()));
  GMA_RETURN_IF_ERROR(
      CheckLimit(limits::kInitialCredit, static_cast<double>(open.initial_credit())));
  converted.initial_credit = open.initial_credit() == 0 ? kDefaultCredit : open.initial_credit();
  converted.keep = open.keep();
  if (open.has_resume_after()) {
    if (!converted.session) {
      return absl::InvalidArgumentError("resume_after is set, must be absent without a session_id");
    }
    GMA_ASSIGN_OR_RETURN(converted.resume_after, ConvertAfter(open.resume_after()));
  }
  return converted;
}

absl::Status CheckDetokenize(const v1::DetokenizeRequest& request, const ServedModel& model) {
  GMA_RETURN_IF_ERROR(CheckModelName(request.model(), model));
  return CheckLimit(limits::kDetokenizeIds, request.ids_size());
}

}  // namespace gma
