#include "server/rpc/owner_slots.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "server/engine/retry_hint.h"

namespace gma {
namespace {

constexpr int64_t kRetryMs = 1000;

}  // namespace

absl::StatusOr<OwnerSlots::Slot> OwnerSlots::Take(const std::string& owner) {
  absl::MutexLock lock(&mutex_);
  int& used = used_[owner];
  if (used >= each_) {
    return RetryLater(absl::StrCat(used, " ", what_, " are under way, limit ", each_), kRetryMs);
  }
  ++used;
  return Slot(this, owner);
}

void OwnerSlots::Return(const std::string& owner) {
  absl::MutexLock lock(&mutex_);
  const auto it = used_.find(owner);
  if (--it->second == 0) used_.erase(it);
}

}  // namespace gma
