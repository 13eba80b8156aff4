// Statuses of calls: gRPC's codes are Abseil's, and a refusal that may be retried says when.
#ifndef GMA_CLIENT_LIB_STATUS_H_
#define GMA_CLIENT_LIB_STATUS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"

namespace gma::client {

// The same code and message; carries the server's retry hint (trailing metadata `retry-after-ms`).
// REQUIRES: the call of `context` is over.
absl::Status StatusOfCall(const grpc::Status& status, const grpc::ClientContext& context);

// How long the server asks to wait before the call is tried again; nothing when it did not say.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// "RESOURCE_EXHAUSTED: the message", in one line and without control characters.
std::string OneLine(const absl::Status& status);

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_STATUS_H_
