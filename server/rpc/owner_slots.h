// How many calls of a costly kind an owner may have at once, so that one who opens many of them and
// reads or writes none takes a bounded share of the server's memory.
#ifndef GMA_SERVER_RPC_OWNER_SLOTS_H_
#define GMA_SERVER_RPC_OWNER_SLOTS_H_

#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace gma {

// THREADS: any. Outlives its slots.
class OwnerSlots {
 public:
  // A lease of one; move-only, goes back by itself.
  class Slot {
   public:
    Slot() = default;  // of nothing
    Slot(Slot&& other) noexcept
        : slots_(std::exchange(other.slots_, nullptr)), owner_(std::move(other.owner_)) {}
    Slot& operator=(Slot&& other) noexcept {
      std::swap(slots_, other.slots_);
      std::swap(owner_, other.owner_);
      return *this;
    }
    ~Slot() {
      if (slots_ != nullptr) slots_->Return(owner_);
    }

   private:
    friend class OwnerSlots;
    Slot(OwnerSlots* slots, std::string owner) : slots_(slots), owner_(std::move(owner)) {}

    OwnerSlots* slots_ = nullptr;
    std::string owner_;
  };

  // `what`, in the plural, names the calls in the error.
  OwnerSlots(std::string what, int each) : what_(std::move(what)), each_(each) {}

  // ERRORS: kResourceExhausted with a retry hint, naming the limit.
  absl::StatusOr<Slot> Take(const std::string& owner);

 private:
  void Return(const std::string& owner);

  const std::string what_;
  const int each_;
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, int> used_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gma

#endif  // GMA_SERVER_RPC_OWNER_SLOTS_H_
