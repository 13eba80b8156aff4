// What every call tells beside its message.
#ifndef GMA_CLIENT_LIB_CALL_METADATA_H_
#define GMA_CLIENT_LIB_CALL_METADATA_H_

#include <string>

#include "grpcpp/client_context.h"

namespace gma::client {

// Names the session that a call is for, so that a proxy before several servers can send the calls
// of one session to one of them. Only a hint: every server can serve every session.
inline constexpr char kSessionKey[] = "gma-session";

// Adds the key, and the session's id if it is one (32 hex digits). `authorization`: value of that
// metadata key; empty: none.
void AddMetadata(grpc::ClientContext& context, const std::string& authorization,
                 const std::string& session_id);

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_CALL_METADATA_H_
