// A clock that moves only when a test moves it.
#ifndef GMA_TESTS_SUPPORT_FAKE_CLOCK_H_
#define GMA_TESTS_SUPPORT_FAKE_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "base/clock.h"

namespace gma::testing {

class FakeClock final : public Clock {
 public:
  absl::Duration Monotonic() const override { return absl::Nanoseconds(nanoseconds_.load()); }
  absl::Time Now() const override { return absl::UnixEpoch() + Monotonic(); }

  void Advance(absl::Duration by) { nanoseconds_.fetch_add(absl::ToInt64Nanoseconds(by)); }

 private:
  // Not zero at the start: nothing may depend on where monotonic time begins.
  std::atomic<int64_t> nanoseconds_{int64_t{1'000'000'000'000}};
};

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_FAKE_CLOCK_H_
