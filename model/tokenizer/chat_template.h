// Chat roles of `tokenizer_config.json`: what stands before and after a message. Roles are data,
// never code from a checkpoint, and a message's content is always encoded as plain text, so a
// user's text cannot become a control token.
#ifndef GMA_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
#define GMA_MODEL_TOKENIZER_CHAT_TEMPLATE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/tokenizer/tokenizer.h"

namespace gma {

struct ChatMessage {
  std::string role;     // a role of the template: "system", "user", "assistant"
  std::string content;  // any bytes
};

struct RenderedChat {
  std::vector<int32_t> tokens;
  std::vector<size_t> message_ends;  // positions in `tokens`, one a message, ascending
};

// The key "gma_chat" of tokenizer_config.json:
//   {"default_system": text, "roles": {name: {"prefix": text, "suffix": text}},
//    "generation_prefix": text}
// THREADS: immutable after Load.
class ChatTemplate {
 public:
  // ERRORS: kNotFound when the file or the key is missing (the model has no chat format);
  // kInvalidArgument for a malformed one.
  static absl::StatusOr<ChatTemplate> Load(const std::string& directory,
                                           const Tokenizer& tokenizer);

  // Tokens of `messages`, followed by the generation prefix. `first` says that nothing was fed to
  // the session before: the default system message is then put in front unless the first message
  // is a system message.
  // ERRORS: kInvalidArgument for an unknown role, naming it and those known.
  absl::StatusOr<RenderedChat> Render(absl::Span<const ChatMessage> messages, bool first) const;

  // Tokens that close an assistant's answer (the assistant's suffix). When a session goes on after
  // an answer, those of them that were not fed yet come first.
  const std::vector<int32_t>& assistant_suffix() const { return assistant_suffix_; }

 private:
  struct Role {
    std::vector<int32_t> prefix, suffix;
  };

  const Tokenizer* tokenizer_ = nullptr;  // outlives the template
  std::map<std::string, Role, std::less<>> roles_;
  std::vector<int32_t> generation_prefix_, assistant_suffix_;
  std::string default_system_;  // empty: none
};

}  // namespace gma

#endif  // GMA_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
