// Messages that wait until what they are for is at hand: a session in the pool, or free rows.
#include <algorithm>
#include <deque>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "server/engine/engine_core.h"
#include "server/engine/message_address.h"

namespace gma {
namespace {

constexpr size_t kMostWaiting = 1024;  // messages for one session, or for rows

bool IsOf(const EngineMessage& message, const TokenStream* stream) {
  const auto* generate = std::get_if<GenerateMessage>(&message);
  return generate != nullptr && generate->stream.get() == stream;
}

absl::Duration WaitsUntil(const EngineMessage& message) {
  return std::visit([](const auto& typed) { return DeadlineOf(typed); }, message);
}

bool IsAbandoned(const EngineMessage& message) {
  return std::visit(
      [](const auto& typed) {
        if constexpr (requires { typed.spec.abandoned; }) {
          return typed.spec.abandoned != nullptr && typed.spec.abandoned();
        } else if constexpr (requires {
                               typed.spec;
                               typed.stream;
                             }) {
          return typed.stream->cancelled();
        }
        return false;
      },
      message);
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
  constexpr bool kRecovers = std::is_same_v<Message, RecoverMessage>;
  Session* session = nullptr;
  // What a server finds in its mailbox after it was frozen must not take a session from the one
  // that its client has gone to.
  if (shares_store() && IsAbandoned(posted)) {
    Refuse(posted, AbandonedError());
    return false;
  }
  if (const auto address = AddressOf(message)) {
    const auto waking = waking_.find(Name(address->owner, address->id));
    if (waking != waking_.end() && !kRecovers) {
      WaitIn(waking->second.messages, posted);
      return false;
    }
    if (!kRecovers && WaitsForRoom(*address)) {
      WaitIn(for_room_, posted);  // behind what came for the session before
      return false;
    }
    session = table_.Peek(address->owner, address->id);
    if (session != nullptr && !kRecovers && MustVerify(*session)) {
      BeginVerify(posted, *session);
      return false;
    }
    if (session == nullptr && keeper_ != nullptr && !kRecovers) {
      // Where others have the store too, what is remembered here may be long over.
      const bool sleeps = table_.PeekSleeping(address->owner, address->id) != nullptr;
      const bool known =
          !shares_store() &&
          (sleeps ? kTakesSleeping<Message> : table_.RemembersEnd(address->owner, address->id));
      if (!known) {
        BeginWaking(posted, *address);
        return false;
      }
    }
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

void EngineCore::WaitIn(std::deque<EngineMessage>& messages, EngineMessage& message) {
  if (messages.size() >= kMostWaiting) return Refuse(message, NoRowError());
  messages.push_back(std::move(message));
}

void EngineCore::WaitForRoom(EngineMessage& message) {
  BalanceMemory();
  // Rows come free as the sessions that are on their way to disk get there.
  if (leaving_bytes_ == 0 || shutting_down_) return Refuse(message, NoRowError());
  WaitIn(for_room_, message);
}

bool EngineCore::WaitsForRoom(const SessionAddress& address) const {
  return std::any_of(for_room_.begin(), for_room_.end(), [&](const EngineMessage& message) {
    return std::visit(
        [&](const auto& typed) {
          const auto other = AddressOf(typed);
          return other && other->id == address.id && other->owner == address.owner;
        },
        message);
  });
}

void EngineCore::DispatchWaiting() {
  for (EngineMessage& message : std::exchange(for_room_, {})) Dispatch(message);
}

void EngineCore::EndOverdueWaiting(absl::Duration now) {
  const auto sweep = [&](std::deque<EngineMessage>& messages) {
    std::deque<EngineMessage> kept;
    for (EngineMessage& message : std::exchange(messages, {})) {
      if (IsAbandoned(message)) {
        Refuse(message, AbandonedError());
      } else if (WaitsUntil(message) <= now) {
        Refuse(message, absl::DeadlineExceededError("the request's deadline has passed"));
      } else {
        kept.push_back(std::move(message));
      }
    }
    messages = std::move(kept);
  };
  if (!for_room_.empty()) sweep(for_room_);
  for (auto& [name, waking] : waking_) sweep(waking.messages);
}

absl::Duration EngineCore::NextWaitingDeadline() const {
  absl::Duration next = absl::InfiniteDuration();
  for (const EngineMessage& message : for_room_) next = std::min(next, WaitsUntil(message));
  for (const auto& [name, waking] : waking_) {
    for (const EngineMessage& message : waking.messages) next = std::min(next, WaitsUntil(message));
  }
  return next;
}

void EngineCore::RefuseWaiting(const absl::Status& status) {
  std::deque<EngineMessage> messages = std::exchange(for_room_, {});
  for (auto& [name, waking] : waking_) {
    for (EngineMessage& message : std::exchange(waking.messages, {})) {
      messages.push_back(std::move(message));
    }
  }
  for (EngineMessage& message : messages) Refuse(message, status);
}

void EngineCore::Refuse(EngineMessage& message, const absl::Status& status) {
  metrics_.request_error[status.code()]->Increment();
  std::visit(
      [&](auto& typed) {
        using Message = std::decay_t<decltype(typed)>;
        if constexpr (kIsTurn<Message>) shared_->waiting.fetch_sub(1);
        if constexpr (std::is_same_v<Message, CancelMessage>) {
          return;  // what it is about is refused too
        } else if constexpr (requires { typed.done; }) {
          typed.done(status);
        } else if constexpr (requires { typed.stream; }) {
          typed.stream->Close(status);
        }
      },
      message);
}

bool EngineCore::CancelBehind(const CancelMessage& message) {
  const auto is_behind = [&](std::deque<EngineMessage>& messages) {
    const bool there = std::any_of(messages.begin(), messages.end(), [&](const EngineMessage& one) {
      const auto* resume = std::get_if<ResumeMessage>(&one);
      if (resume != nullptr) return resume->stream == message.stream;
      return IsOf(one, message.stream.get()) &&
             !std::get<GenerateMessage>(one).spec.request_key.empty();
    });
    if (there) messages.push_back(message);
    return there;
  };
  return is_behind(for_room_) || std::any_of(waking_.begin(), waking_.end(), [&](auto& waking) {
           return is_behind(waking.second.messages);
         });
}

std::unique_ptr<GenerateMessage> EngineCore::TakeWaiting(const TokenStream* stream) {
  const auto take = [&](std::deque<EngineMessage>& messages) {
    std::unique_ptr<GenerateMessage> taken;
    const auto found = std::find_if(messages.begin(), messages.end(),
                                    [&](const EngineMessage& one) { return IsOf(one, stream); });
    if (found == messages.end()) return taken;
    taken = std::make_unique<GenerateMessage>(std::get<GenerateMessage>(std::move(*found)));
    messages.erase(found);
    return taken;
  };
  std::unique_ptr<GenerateMessage> taken = take(for_room_);
  for (auto it = waking_.begin(); taken == nullptr && it != waking_.end(); ++it) {
    taken = take(it->second.messages);
  }
  return taken;
}

}  // namespace gma
