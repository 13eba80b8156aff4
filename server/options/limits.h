// The one table of limits: every number that comes from outside has its closed range here. It
// drives validation (server/rpc), docs/OPERATIONS.md (checked by a test) and the boundary tests.
#ifndef GMA_SERVER_OPTIONS_LIMITS_H_
#define GMA_SERVER_OPTIONS_LIMITS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace gma {

// One range, both ends included. Integers up to 2^53 are exact in a double.
struct Limit {
  std::string_view field;  // as in the proto, e.g. "sampling.temperature"
  double min, max;
  std::string_view unit;     // "tokens", "bytes", "entries", "" ...
  std::string_view meaning;  // one line for the docs
};

// Rows of the table, by name; X(constant, field, min, max, unit, meaning).
#define GMA_LIMITS(X)                                                                         \
  X(kTemperature, "sampling.temperature", 0, 100, "", "0 is greedy")                          \
  X(kTopK, "sampling.top_k", 0, 2147483647, "tokens", "0 is off")                             \
  X(kTopP, "sampling.top_p", 0.000001, 1, "", "1 is off")                                     \
  X(kMinP, "sampling.min_p", 0, 1, "", "0 is off")                                            \
  X(kTypicalP, "sampling.typical_p", 0.000001, 1, "", "1 is off")                             \
  X(kRepetitionPenalty, "sampling.repetition_penalty", 0.01, 100, "", "1 is off")             \
  X(kPresencePenalty, "sampling.presence_penalty", -100, 100, "", "0 is off")                 \
  X(kFrequencyPenalty, "sampling.frequency_penalty", -100, 100, "", "0 is off")               \
  X(kLogitBiasEntries, "sampling.logit_bias", 0, 1024, "entries", "")                         \
  X(kLogitBias, "sampling.logit_bias.bias", -100, 100, "", "added to the logit")              \
  X(kBannedTokens, "sampling.banned_tokens", 0, 1024, "entries", "")                          \
  X(kAllowedTokens, "sampling.allowed_tokens", 0, 1048576, "entries", "empty allows all")     \
  X(kTopLogprobs, "sampling.top_logprobs", 0, 20, "tokens", "absent is none")                 \
  X(kMaxTokens, "stop.max_tokens", 1, 1048576, "tokens", "default 256")                       \
  X(kMinTokens, "stop.min_tokens", 0, 1048576, "tokens", "at most max_tokens")                \
  X(kStopTokens, "stop.stop_tokens", 0, 64, "entries", "")                                    \
  X(kStopStrings, "stop.stop_strings", 0, 4, "entries", "")                                   \
  X(kStopStringBytes, "stop.stop_strings[]", 1, 256, "bytes", "")                             \
  X(kInputBytes, "input.text", 1, 1048576, "bytes", "")                                       \
  X(kInputTokens, "input.tokens", 1, 1048576, "tokens", "")                                   \
  X(kChatMessages, "input.chat.messages", 1, 1024, "entries", "")                             \
  X(kChatRoleBytes, "input.chat.messages.role", 1, 64, "bytes", "")                           \
  X(kChatBytes, "input.chat.messages.content", 0, 1048576, "bytes", "all messages together")  \
  X(kCandidates, "n", 0, 16, "answers", "0 means 1")                                          \
  X(kPriority, "priority", -10, 10, "", "larger goes first")                                  \
  X(kTtlSeconds, "ttl_seconds", 0, 604800, "seconds", "0 is the server's default")            \
  X(kInitialCredit, "open.initial_credit", 0, 1048576, "tokens", "0 is the server's default") \
  X(kCredit, "credit.tokens", 1, 1048576, "tokens", "")                                       \
  X(kModelBytes, "model", 0, 256, "bytes", "empty is the only model")                         \
  X(kSessionIdBytes, "session_id", 0, 32, "bytes", "32 hex digits, or empty where allowed")   \
  X(kRequestKey, "request_key", 0, 64, "bytes", "empty is none")                              \
  X(kAfter, "after", 0, 100000000000000, "events", "sequence number of the last event seen")  \
  X(kPageSize, "page_size", 0, 1000, "sessions", "0 means 100")                               \
  X(kCheckpointName, "checkpoint.name", 0, 64, "bytes", "empty is numbered by the server")    \
  X(kRewindCheckpoint, "rewind.checkpoint", 1, 64, "bytes", "name of a checkpoint")           \
  X(kRewindTokens, "rewind.context_tokens", 0, 100000000000000, "tokens",                     \
    "at most what the session holds")                                                         \
  X(kStateChunk, "import.data", 1, 1048576, "bytes", "one chunk")                             \
  X(kTokenizeBytes, "tokenize.text", 0, 1048576, "bytes", "")                                 \
  X(kDetokenizeIds, "detokenize.ids", 0, 1048576, "tokens", "")

namespace limits {
#define GMA_DECLARE_LIMIT(constant, field, min, max, unit, meaning) \
  inline constexpr Limit constant = {field, min, max, unit, meaning};
GMA_LIMITS(GMA_DECLARE_LIMIT)
#undef GMA_DECLARE_LIMIT
}  // namespace limits

// Every row of the table, in its order.
absl::Span<const Limit> AllLimits();

// OK when min <= value <= max; NaN never is.
// ERRORS: kInvalidArgument, "sampling.top_p is 1.5, must be in [1e-06, 1]".
absl::Status CheckLimit(const Limit& limit, double value);

// The table as Markdown, one row a limit: docs/OPERATIONS.md holds exactly these lines.
std::string LimitsMarkdown();

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_LIMITS_H_
