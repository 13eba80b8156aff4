#include "server/rpc/call_context.h"

#include <openssl/rand.h>

#include <chrono>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "server/engine/retry_hint.h"

namespace gma {
namespace {

constexpr char kRetryMetadata[] = "retry-after-ms";
constexpr std::string_view kBearer = "Bearer ";
constexpr size_t kMaxMessageBytes = 1024;  // of a status: it travels in trailing metadata

}  // namespace

absl::StatusOr<std::string> OwnerOf(const grpc::CallbackServerContext& context,
                                    const RpcEnvironment& env) {
  if (env.api_keys == nullptr) return "local";
  const auto& metadata = context.client_metadata();
  const auto [first, last] = metadata.equal_range("authorization");
  if (first != last && std::next(first) == last) {
    const std::string_view value(first->second.data(), first->second.size());
    if (value.substr(0, kBearer.size()) == kBearer) {
      std::optional<std::string> owner = env.api_keys->OwnerOf(value.substr(kBearer.size()));
      if (owner.has_value()) return *std::move(owner);
    }
  }
  return absl::UnauthenticatedError(
      "the header authorization must be \"Bearer KEY\" with a key of this server");
}

absl::Duration DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteDuration();
  return clock.Monotonic() + absl::FromChrono(deadline - std::chrono::system_clock::now());
}

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context) {
  if (status.ok()) return grpc::Status::OK;
  if (const std::optional<int64_t> retry = RetryAfterMs(status); retry.has_value()) {
    context.AddTrailingMetadata(kRetryMetadata, absl::StrCat(*retry));
  }
  return {static_cast<grpc::StatusCode>(status.code()),
          std::string(status.message().substr(0, kMaxMessageBytes))};
}

absl::Status Refused(absl::Status status, const RpcEnvironment& env) {
  if (!status.ok()) env.metrics.request_error[status.code()]->Increment();
  return status;
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  GMA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&seed), sizeof(seed)) == 1);
  return seed;
}

UnaryReply::~UnaryReply() {
  if (reactor_ == nullptr) return;
  std::move(*this).Finish(absl::UnavailableError("the server is shutting down"));
}

void UnaryReply::Finish(const absl::Status& status) && {
  std::exchange(reactor_, nullptr)->Finish(ToGrpcStatus(status, *context_));
}

}  // namespace gma
