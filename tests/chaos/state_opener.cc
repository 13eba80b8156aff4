#include "tests/chaos/state_opener.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/checkpoint/model_dir.h"
#include "server/session/snapshot.h"

namespace gma::chaos {

absl::StatusOr<OpenState> MakeStateOpener(const std::string& model, const std::string& state_key) {
  GMA_ASSIGN_OR_RETURN(const ModelDir directory, ModelDir::Open(model, {}));
  GMA_ASSIGN_OR_RETURN(const StateKey key, StateKey::LoadOrMake(state_key));
  GMA_ASSIGN_OR_RETURN(StateLayout layout,
                       StateLayout::Create(directory.config(), /*compensated=*/false));
  auto scope = std::make_shared<const SnapshotScope>(
      SnapshotScope{.key = key,
                    .fingerprint = directory.fingerprint(),
                    .layout = std::move(layout),
                    .vocab_size = directory.config().vocab_size});
  return OpenState([scope](std::string_view blob) -> absl::StatusOr<std::string> {
    GMA_ASSIGN_OR_RETURN(const SessionImage image, OpenSnapshot(*scope, "local", {}, blob));
    const SessionPoint& point = image.point;
    return absl::StrCat(point.fed, " ", point.pending.value_or(-1), " ", point.answer_open, " ",
                        absl::StrJoin(point.answer_tail, ","), " ",
                        std::string(image.row.begin(), image.row.end()));
  });
}

}  // namespace gma::chaos
