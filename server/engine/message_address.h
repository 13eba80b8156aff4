// What the engine has to have at hand before it can take a message.
#ifndef GMA_SERVER_ENGINE_MESSAGE_ADDRESS_H_
#define GMA_SERVER_ENGINE_MESSAGE_ADDRESS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "server/engine/engine_shared.h"

namespace gma {

// The session that a message is for.
struct SessionAddress {
  const std::string& owner;
  SessionId id;
};

template <typename Message>
std::optional<SessionAddress> AddressOf(const Message& message) {
  if constexpr (requires { message.spec.session; }) {
    const std::optional<SessionId> id = message.spec.session;
    if (id) return SessionAddress{message.spec.owner, *id};
  } else if constexpr (requires { message.id; }) {
    return SessionAddress{message.owner, message.id};
  }
  return std::nullopt;
}

// Whether the session has to be in the pool for it.
template <typename Message>
bool WantsOwnRow(const Message& message) {
  if constexpr (std::is_same_v<Message, PinMessage>) return message.pinned;
  return !std::is_same_v<Message, GetMessage> && !std::is_same_v<Message, CloseMessage> &&
         !std::is_same_v<Message, ResumeMessage> &&
         !std::is_same_v<Message, ListCheckpointsMessage> &&
         !std::is_same_v<Message, DeleteCheckpointMessage>;
}

// Whether its record is enough, where the session sleeps.
template <typename Message>
inline constexpr bool kTakesSleeping =
    std::is_same_v<Message, GetMessage> || std::is_same_v<Message, CloseMessage>;

// Rows that it takes besides: of a new session, or of the answers of a private request.
template <typename Message>
int32_t NewRows(const Message& message) {
  if constexpr (std::is_same_v<Message, GenerateMessage>) {
    return message.spec.session ? 0 : message.spec.n;
  }
  return std::is_same_v<Message, OpenMessage> || std::is_same_v<Message, ImportMessage> ||
                 std::is_same_v<Message, ForkMessage>
             ? 1
             : 0;
}

// When its caller gives up.
template <typename Message>
absl::Duration DeadlineOf(const Message& message) {
  if constexpr (requires { message.spec.deadline; }) return message.spec.deadline;
  return absl::InfiniteDuration();
}

// Whether it is a turn that was counted as waiting.
template <typename Message>
inline constexpr bool kIsTurn = requires(Message message) {
  message.accepted_at;
};

}  // namespace gma

#endif  // GMA_SERVER_ENGINE_MESSAGE_ADDRESS_H_
