// Sampling and stop parameters (server/rpc/convert.h).
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/options/limits.h"
#include "server/rpc/convert.h"

namespace gma {
namespace {

using Ids = google::protobuf::RepeatedField<int32_t>;

absl::Status CheckId(const Limit& field, int index, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(absl::string_view(field.field.data(), field.field.size()), "[", index, "] is ",
                   id, ", must be a token id in [0, ", vocab_size, ")"));
}

// Checks the number of ids, then each of them, then copies.
absl::StatusOr<std::vector<int32_t>> ConvertIds(const Limit& count, const Ids& ids,
                                                int32_t vocab_size) {
  GMA_RETURN_IF_ERROR(CheckLimit(count, ids.size()));
  for (int i = 0; i < ids.size(); ++i) {
    GMA_RETURN_IF_ERROR(CheckId(count, i, ids[i], vocab_size));
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

absl::Status ConvertLogitBias(const v1::SamplingParams& sampling, int32_t vocab_size,
                              SamplingParams& params) {
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kLogitBiasEntries, sampling.logit_bias_size()));
  params.logit_bias.reserve(sampling.logit_bias_size());
  for (int i = 0; i < sampling.logit_bias_size(); ++i) {
    const v1::LogitBias& entry = sampling.logit_bias(i);
    GMA_RETURN_IF_ERROR(CheckId(limits::kLogitBiasEntries, i, entry.token(), vocab_size));
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kLogitBias, entry.bias()));
    params.logit_bias.emplace_back(entry.token(), entry.bias());
  }
  return absl::OkStatus();
}

// The numbers of SamplingParams, with the model's defaults for absent ones.
absl::Status ConvertNumbers(const v1::SamplingParams& from, const GenerationDefaults& defaults,
                            SamplingParams& to) {
  to.temperature = from.has_temperature() ? from.temperature() : defaults.temperature;
  to.top_k = from.has_top_k() ? from.top_k() : defaults.top_k;
  to.top_p = from.has_top_p() ? from.top_p() : defaults.top_p;
  to.min_p = from.has_min_p() ? from.min_p() : defaults.min_p;
  to.typical_p = from.has_typical_p() ? from.typical_p() : defaults.typical_p;
  to.repetition_penalty =
      from.has_repetition_penalty() ? from.repetition_penalty() : defaults.repetition_penalty;
  to.presence_penalty = from.presence_penalty();
  to.frequency_penalty = from.frequency_penalty();
  to.top_logprobs = -1;
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kTemperature, to.temperature));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kTopK, to.top_k));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kTopP, to.top_p));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kMinP, to.min_p));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kTypicalP, to.typical_p));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kRepetitionPenalty, to.repetition_penalty));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kPresencePenalty, to.presence_penalty));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kFrequencyPenalty, to.frequency_penalty));
  if (from.has_top_logprobs()) {
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kTopLogprobs, from.top_logprobs()));
    to.top_logprobs = from.top_logprobs();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SamplingParams> ConvertSampling(const v1::SamplingParams& sampling,
                                               const ServedModel& model, uint64_t fallback_seed) {
  SamplingParams params;
  GMA_RETURN_IF_ERROR(ConvertNumbers(sampling, model.defaults, params));
  GMA_RETURN_IF_ERROR(ConvertLogitBias(sampling, model.vocab_size, params));
  GMA_ASSIGN_OR_RETURN(
      params.banned_tokens,
      ConvertIds(limits::kBannedTokens, sampling.banned_tokens(), model.vocab_size));
  GMA_ASSIGN_OR_RETURN(
      params.allowed_tokens,
      ConvertIds(limits::kAllowedTokens, sampling.allowed_tokens(), model.vocab_size));
  params.seed = sampling.has_seed() ? sampling.seed() : fallback_seed;
  return params;
}

absl::StatusOr<StopParams> ConvertStop(const v1::StopParams& stop, const ServedModel& model) {
  StopParams params;
  params.max_tokens = stop.has_max_tokens() ? stop.max_tokens() : 256;
  params.min_tokens = stop.min_tokens();
  params.ignore_eos = stop.ignore_eos();
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kMaxTokens, params.max_tokens));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kMinTokens, params.min_tokens));
  if (params.min_tokens > params.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("stop.min_tokens is ", params.min_tokens,
                                                   ", must be at most stop.max_tokens, which is ",
                                                   params.max_tokens));
  }
  GMA_ASSIGN_OR_RETURN(params.stop_tokens,
                       ConvertIds(limits::kStopTokens, stop.stop_tokens(), model.vocab_size));
  GMA_RETURN_IF_ERROR(CheckLimit(limits::kStopStrings, stop.stop_strings_size()));
  for (const std::string& text : stop.stop_strings()) {
    GMA_RETURN_IF_ERROR(CheckLimit(limits::kStopStringBytes, text.size()));
  }
  params.stop_strings.assign(stop.stop_strings().begin(), stop.stop_strings().end());
  return params;
}

absl::Status CheckTogether(const SamplingParams& sampling, const StopParams& stop,
                           const ServedModel& model) {
  if (sampling.banned_tokens.empty() && sampling.allowed_tokens.empty()) return absl::OkStatus();
  std::vector<bool> usable(model.vocab_size, sampling.allowed_tokens.empty());
  for (const int32_t id : sampling.allowed_tokens) usable[id] = true;
  for (const int32_t id : sampling.banned_tokens) usable[id] = false;
  const auto any_usable = [&] { return std::find(usable.begin(), usable.end(), true); };
  if (any_usable() == usable.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sampling.banned_tokens lists ", sampling.banned_tokens.size(), " and leaves none of the ",
        sampling.allowed_tokens.empty() ? usable.size() : sampling.allowed_tokens.size(),
        " of sampling.allowed_tokens, must leave at least 1"));
  }
  if (stop.min_tokens == 0) return absl::OkStatus();
  // Until min_tokens are drawn the ends of an answer are banned too.
  for (const int32_t id : stop.stop_tokens) usable[id] = false;
  if (!stop.ignore_eos) {
    for (const int32_t id : model.end_tokens) usable[id] = false;
  }
  if (any_usable() != usable.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "stop.min_tokens is ", stop.min_tokens,
      ", must be 0: sampling.allowed_tokens and sampling.banned_tokens leave only end tokens"));
}

}  // namespace gma
