// From messages of the API to what the engine is asked: every field is checked against the limits
// table before anything of a size that the client chose is allocated. Pure: no engine, no clock, no
// random numbers, so that it can be fuzzed.
// ERRORS of every function: kInvalidArgument naming field, value and limit, unless another is said.
// THREADS: any.
#ifndef GMA_SERVER_RPC_CONVERT_H_
#define GMA_SERVER_RPC_CONVERT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gma/v1/generation.pb.h"
#include "gma/v1/models.pb.h"
#include "gma/v1/sessions.pb.h"
#include "server/engine/engine.h"
#include "server/rpc/served_model.h"

namespace gma {

// The default of SessionOpen.initial_credit, and the most that credit can add up to, in tokens.
inline constexpr int64_t kDefaultCredit = 1024;
inline constexpr int64_t kMaxCredit = 1048576;

struct ConvertedOpen {
  std::optional<SessionId> session;  // nothing: a new one
  absl::Duration ttl;                // zero: the server's default
  int64_t initial_credit;            // tokens
  bool keep;
  std::optional<int64_t> resume_after;  // only with `session`
};

struct ConvertedAppend {
  InputTokens input;
  std::string request_key;
  std::optional<int64_t> after;
};

// A caller's name or id as a message shows it: quoted, escaped, cut when it is long. Never for
// text that goes to the model.
std::string Quoted(const std::string& text);

// ERRORS: also kNotFound for a model that is not served.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);
// `hex` is not empty and names a session.
absl::StatusOr<SessionId> ConvertSessionId(const std::string& hex);
// Zero for zero: the server's default.
absl::StatusOr<absl::Duration> ConvertTtl(int64_t seconds);

// `required`: an input without content is refused.
absl::StatusOr<InputTokens> ConvertInput(const v1::Input& input, const ServedModel& model,
                                         bool required);
// `fallback_seed` is used when the request has none.
absl::StatusOr<SamplingParams> ConvertSampling(const v1::SamplingParams& sampling,
                                               const ServedModel& model, uint64_t fallback_seed);
absl::StatusOr<StopParams> ConvertStop(const v1::StopParams& stop, const ServedModel& model);
// What no single field shows: whether a token stays that may be drawn.
absl::Status CheckTogether(const SamplingParams& sampling, const StopParams& stop,
                           const ServedModel& model);

// Owner and deadline are the caller's to set.
absl::StatusOr<GenerateSpec> ConvertGenerate(const v1::GenerateRequest& request,
                                             const ServedModel& model, uint64_t fallback_seed);
absl::StatusOr<GenerateSpec> ConvertSessionGenerate(const v1::SessionGenerate& request,
                                                    const ServedModel& model,
                                                    uint64_t fallback_seed);
absl::StatusOr<ResumeSpec> ConvertResume(const v1::ResumeRequest& request);
absl::StatusOr<AppendSpec> ConvertAppend(const v1::AppendRequest& request,
                                         const ServedModel& model);
absl::StatusOr<ConvertedAppend> ConvertSessionAppend(const v1::SessionAppend& request,
                                                     const ServedModel& model);
// Owner and deadline are the caller's to set.
absl::StatusOr<RewindSpec> ConvertRewind(const v1::RewindRequest& request);
absl::StatusOr<ConvertedOpen> ConvertOpen(const v1::SessionOpen& open, const ServedModel& model);

// Ids of a DetokenizeRequest, all in [0, vocab_size of the tokenizer).
absl::Status CheckDetokenize(const v1::DetokenizeRequest& request, const ServedModel& model);

}  // namespace gma

#endif  // GMA_SERVER_RPC_CONVERT_H_
