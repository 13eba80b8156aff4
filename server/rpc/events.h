// From the engine's events to messages of the API: puts neighbouring tokens into one message.
#ifndef GMA_SERVER_RPC_EVENTS_H_
#define GMA_SERVER_RPC_EVENTS_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "gma/v1/generation.pb.h"
#include "server/engine/token_stream.h"
#include "server/rpc/served_model.h"

namespace gma {

// What the messages of one answer have in common.
struct AnswerLabels {
  const ServedModel* model;
  std::string session_id;   // hex; empty for a private session
  uint64_t request_id = 0;  // of the turn, on a Session stream
};

// Hands each message for `events`, in order, to `send`, with the number of its first event.
// Response: v1::GenerateResponse or v1::SessionResponse.
template <typename Response>
void PackEvents(absl::Span<const StreamEvent> events, const AnswerLabels& labels,
                absl::FunctionRef<void(Response&)> send);

}  // namespace gma

#endif  // GMA_SERVER_RPC_EVENTS_H_
