// Messages that wait until what they are for is at hand: a session in the pool, or free rows.
#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "server/engine/engine_core.h"
#include "server/engine/message_address.h"

namespace gma {
namespace {

bool IsOf(const EngineMessage& message, const TokenStream* stream) {
  const auto* generate = std::get_if<GenerateMessage>(&message);
  return generate != nullptr && generate->stream.get() == stream;
}

}  // namespace

void EngineCore::TakeMessages() {
  shared_->mailbox.TakeAll(messages_);
  for (EngineMessage& message : messages_) Dispatch(message);
}

void EngineCore::Dispatch(EngineMessage& message) {
  std::visit(
      [&](auto& typed) {
        if (Prepare(message, typed)) OnMessage(std::move(typed));
      },
      message);
}

template <typename Message>
bool EngineCore::Prepare(EngineMessage& posted, const Message& message) {
  Session* session = nullptr;
  if (const auto address = AddressOf(message)) {
    session = table_.Peek(address->owner, address->id);
    const bool parked = session != nullptr && session->tier() == SessionTier::kMemory;
    if (parked && WantsOwnRow(message) && !Wake(*session)) {
      WaitForRoom(posted);
      return false;
    }
  }
  const int32_t rows = NewRows(message);
  // More than there are is refused for what it is.
  if (rows < 1 || rows > pool_->capacity() || MakeRows(rows, session)) return true;
  WaitForRoom(posted);
  return false;
}

void EngineCore::WaitForRoom(EngineMessage& message) { Refuse(message, NoRowError()); }

void EngineCore::Refuse(EngineMessage& message, const absl::Status& status) {
  metrics_.request_error[status.code()]->Increment();
  std::visit(
      [&](auto& typed) {
        using Message = std::decay_t<decltype(typed)>;
        if constexpr (kIsTurn<Message>) shared_->waiting.fetch_sub(1);
        if constexpr (requires { typed.done; }) {
          typed.done(status);
        } else if constexpr (requires { typed.stream; }) {
          typed.stream->Close(status);
        }
      },
      message);
}

std::unique_ptr<GenerateMessage> EngineCore::TakeWaiting(const TokenStream* stream) {
  const auto found = std::find_if(for_room_.begin(), for_room_.end(),
                                  [&](const EngineMessage& one) { return IsOf(one, stream); });
  if (found == for_room_.end()) return nullptr;
  auto message = std::make_unique<GenerateMessage>(std::get<GenerateMessage>(std::move(*found)));
  for_room_.erase(found);
  return message;
}

}  // namespace gma
