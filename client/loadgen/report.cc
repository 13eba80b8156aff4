#include "client/loadgen/report.h"

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace gma::client {
namespace {

using Json = nlohmann::ordered_json;

double PerSecond(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

void AppendRow(std::string& text, const char* name, const Summary& s) {
  absl::StrAppendFormat(&text, "%-22s %10.2f %10.2f %10.2f %10.2f %10.2f %10d\n", name,
                        s.mean * 1e3, s.p50 * 1e3, s.p90 * 1e3, s.p99 * 1e3, s.max * 1e3, s.count);
}

Json JsonOf(const Summary& s) {
  return {{"count", s.count}, {"mean", s.mean}, {"p50", s.p50},
          {"p90", s.p90},     {"p99", s.p99},   {"max", s.max}};
}

Json JsonOf(const LoadFlags& flags) {
  return {{"server", flags.connection.server},
          {"connections", flags.connections},
          {"loop", flags.rate > 0 ? "open" : "closed"},
          {"streams", flags.rate > 0 ? 0 : flags.streams},
          {"rate", flags.rate},
          {"arrivals", flags.arrivals},
          {"requests", flags.requests},
          {"duration_seconds", flags.duration},
          {"prompt_tokens", flags.prompt_tokens},
          {"max_tokens", flags.max_tokens},
          {"ignore_eos", flags.ignore_eos},
          {"temperature", flags.temperature},
          {"seed", flags.seed},
          {"slow_readers", flags.slow_readers},
          {"slow_read_delay_seconds", flags.slow_read_delay},
          {"cancels", flags.cancels}};
}

}  // namespace

std::string TableOf(const LoadResult& result) {
  std::string text = absl::StrFormat("%-22s %10s %10s %10s %10s %10s %10s\n", "milliseconds",
                                     "mean", "p50", "p90", "p99", "max", "samples");
  AppendRow(text, "first token", result.first_token.Summarise());
  AppendRow(text, "between tokens", result.inter_token.Summarise());
  AppendRow(text, "between messages", result.inter_message.Summarise());
  AppendRow(text, "whole answer", result.end_to_end.Summarise());
  absl::StrAppendFormat(
      &text, "requests   %d started, %d succeeded, %d cancelled, %d failed in %.2f s (%.2f/s)\n",
      result.started, result.succeeded, result.cancelled, result.failed, result.wall_seconds,
      PerSecond(result.succeeded, result.wall_seconds));
  absl::StrAppendFormat(&text, "tokens     %d generated (%.1f/s), %d of prompts (%.1f/s)\n",
                        result.completion_tokens,
                        PerSecond(result.completion_tokens, result.wall_seconds),
                        result.prompt_tokens, PerSecond(result.prompt_tokens, result.wall_seconds));
  for (const auto& [code, error] : result.errors) {
    absl::StrAppendFormat(&text, "error      %s, %d times: %s\n", code, error.count, error.example);
  }
  return text;
}

std::string JsonOf(const LoadFlags& flags, const v1::ModelInfo& model, const LoadResult& result) {
  Json errors = Json::object();
  for (const auto& [code, error] : result.errors) {
    errors[code] = {{"count", error.count}, {"example", error.example}};
  }
  const Json json = {
      {"load", JsonOf(flags)},
      {"model",
       {{"name", model.name()},
        {"fingerprint", model.fingerprint()},
        {"device", model.device()},
        {"weights", model.weights()},
        {"server_version", model.server_version()}}},
      {"wall_seconds", result.wall_seconds},
      {"requests",
       {{"started", result.started},
        {"succeeded", result.succeeded},
        {"cancelled", result.cancelled},
        {"failed", result.failed},
        {"slow_readers", result.slow}}},
      {"errors", errors},
      {"tokens", {{"prompt", result.prompt_tokens}, {"completion", result.completion_tokens}}},
      {"requests_per_second", PerSecond(result.succeeded, result.wall_seconds)},
      {"completion_tokens_per_second", PerSecond(result.completion_tokens, result.wall_seconds)},
      {"prompt_tokens_per_second", PerSecond(result.prompt_tokens, result.wall_seconds)},
      {"first_token_seconds", JsonOf(result.first_token.Summarise())},
      {"inter_token_seconds", JsonOf(result.inter_token.Summarise())},
      {"inter_message_seconds", JsonOf(result.inter_message.Summarise())},
      {"end_to_end_seconds", JsonOf(result.end_to_end.Summarise())}};
  // A message of the server may hold any bytes.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string LineOf(const Progress& progress) {
  return absl::StrFormat("%.1f s: %d running, %d done, %d failed, %d tokens (%.0f/s)",
                         progress.seconds, progress.running, progress.succeeded, progress.failed,
                         progress.tokens, PerSecond(progress.tokens, progress.seconds));
}

}  // namespace gma::client
