#include "model/tokenizer/chat_template.h"

#include <initializer_list>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxFileBytes = size_t{1} << 20;
constexpr char kAssistant[] = "assistant";
constexpr char kSystem[] = "system";

absl::Status Refuse(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json: ", what));
}

// `value` is null where the key is missing.
absl::Status RefuseType(const std::string& name, const Json* value, const char* rule) {
  constexpr size_t kShownBytes = 40;
  if (value == nullptr) return Refuse(absl::StrCat(name, " is missing, must be ", rule));
  const std::string text = value->dump(-1, ' ', /*ensure_ascii=*/true);
  return Refuse(absl::StrCat(name, " is ", text.substr(0, kShownBytes),
                             text.size() > kShownBytes ? "..." : "", ", must be ", rule));
}

// Checks that `object` is one and has no keys but `known`: a misspelt key is not passed over.
absl::Status CheckKeys(const Json& object, const std::string& name,
                       std::initializer_list<const char*> known) {
  if (!object.is_object()) return RefuseType(name, &object, "an object");
  for (const auto& [key, unused] : object.items()) {
    bool is_known = false;
    for (const char* candidate : known) is_known |= key == candidate;
    if (!is_known) {
      return Refuse(absl::StrCat("unknown key '", absl::CHexEscape(key), "' in ", name,
                                 ", known are ", absl::StrJoin(known, ", ")));
    }
  }
  return absl::OkStatus();
}

// The text under `key`.
absl::StatusOr<std::string> ReadText(const Json& object, const std::string& name, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) {
    return RefuseType(absl::StrCat(name, ".", key), found == object.end() ? nullptr : &*found,
                      "a string");
  }
  return found->get<std::string>();
}

void Append(const std::vector<int32_t>& from, std::vector<int32_t>& to) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& directory,
                                                const Tokenizer& tokenizer) {
  const std::string path = absl::StrCat(directory, "/tokenizer_config.json");
  GMA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  absl::StatusOr<Json> root = ParseJson(text, {.max_bytes = kMaxFileBytes});
  if (!root.ok()) return Refuse(std::string(root.status().message()));
  if (!root->is_object()) return Refuse("the file must be an object");
  const auto found = root->find("gma_chat");
  if (found == root->end()) {
    return absl::NotFoundError(absl::StrCat(path, ": no key gma_chat: no chat format"));
  }
  const Json& chat = *found;
  GMA_RETURN_IF_ERROR(
      CheckKeys(chat, "gma_chat", {"default_system", "roles", "generation_prefix"}));

  ChatTemplate out;
  out.tokenizer_ = &tokenizer;
  GMA_ASSIGN_OR_RETURN(out.default_system_, ReadText(chat, "gma_chat", "default_system"));
  GMA_ASSIGN_OR_RETURN(const std::string generation_prefix,
                       ReadText(chat, "gma_chat", "generation_prefix"));
  out.generation_prefix_ = tokenizer.EncodeTemplate(generation_prefix);
  const auto roles = chat.find("roles");
  if (roles == chat.end() || !roles->is_object()) {
    return RefuseType("gma_chat.roles", roles == chat.end() ? nullptr : &*roles, "an object");
  }
  for (const auto& [name, role] : roles->items()) {
    const std::string shown = absl::StrCat("gma_chat.roles['", absl::CHexEscape(name), "']");
    GMA_RETURN_IF_ERROR(CheckKeys(role, shown, {"prefix", "suffix"}));
    GMA_ASSIGN_OR_RETURN(const std::string prefix, ReadText(role, shown, "prefix"));
    GMA_ASSIGN_OR_RETURN(const std::string suffix, ReadText(role, shown, "suffix"));
    out.roles_[name] = {tokenizer.EncodeTemplate(prefix), tokenizer.EncodeTemplate(suffix)};
  }
  const auto assistant = out.roles_.find(kAssistant);
  if (assistant == out.roles_.end()) return Refuse("gma_chat.roles has no role 'assistant'");
  out.assistant_suffix_ = assistant->second.suffix;
  if (!out.default_system_.empty() && !out.roles_.contains(kSystem)) {
    return Refuse("gma_chat.default_system is set, but gma_chat.roles has no role 'system'");
  }
  return out;
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                  bool first) const {
  RenderedChat rendered;
  std::vector<int32_t>& tokens = rendered.tokens;
  const auto add = [&](const Role& role, std::string_view content) {
    Append(role.prefix, tokens);
    Append(tokenizer_->EncodeText(content), tokens);
    Append(role.suffix, tokens);
  };
  const bool has_system = !messages.empty() && messages.front().role == kSystem;
  if (first && !has_system && !default_system_.empty()) {
    add(roles_.find(kSystem)->second, default_system_);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const auto role = roles_.find(message.role);
    if (role == roles_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].role is \"", absl::CHexEscape(message.role.substr(0, 64)),
                       "\", must be one of ",
                       absl::StrJoin(roles_, ", ", [](std::string* out, const auto& known) {
                         absl::StrAppend(out, known.first);
                       })));
    }
    add(role->second, message.content);
    rendered.message_ends.push_back(tokens.size());
  }
  Append(generation_prefix_, tokens);
  return rendered;
}

}  // namespace gma
