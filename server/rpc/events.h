// From the engine's events to messages of the API: numbers them, and puts neighbouring tokens into
// one message.
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
  std::string session_id;  // hex; empty for a private session
  bool logprobs = false;   // they were asked for
};

// Hands each message for `events`, in order, to `send`, with `sequence` as the number of its first
// event, and moves `sequence` on: a Tokens message takes one number for each of its tokens.
// Response: v1::GenerateResponse or v1::SessionResponse.
template <typename Response>
void PackEvents(absl::Span<const StreamEvent> events, const AnswerLabels& labels,
                uint64_t& sequence, absl::FunctionRef<void(Response&)> send);

}  // namespace gma

#endif  // GMA_SERVER_RPC_EVENTS_H_
