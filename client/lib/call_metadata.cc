#include "client/lib/call_metadata.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace gma::client {

void AddMetadata(grpc::ClientContext& context, const std::string& authorization,
                 const std::string& session_id) {
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  constexpr size_t kIdDigits = 32;
  // What is no id is refused by the server; gRPC aborts over values that no header can have.
  if (session_id.size() == kIdDigits &&
      std::all_of(session_id.begin(), session_id.end(), absl::ascii_isxdigit)) {
    context.AddMetadata(kSessionKey, session_id);
  }
}

}  // namespace gma::client
