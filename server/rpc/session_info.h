// A session as the API shows it.
#ifndef GMA_SERVER_RPC_SESSION_INFO_H_
#define GMA_SERVER_RPC_SESSION_INFO_H_

#include "gma/v1/sessions.pb.h"
#include "server/engine/engine.h"
#include "server/rpc/served_model.h"

namespace gma {

void FillInfo(const SessionSnapshotInfo& from, const ServedModel& model, v1::SessionInfo& to);

}  // namespace gma

#endif  // GMA_SERVER_RPC_SESSION_INFO_H_
