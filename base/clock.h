// Time as a constructor argument, so that the simulator can move it by hand.
#ifndef GMA_BASE_CLOCK_H_
#define GMA_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace gma {

// THREADS: implementations may be called from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic time since an arbitrary start. All timers, deadlines and expiries use this one:
  // a jump of the wall clock must not end a session.
  virtual absl::Duration Monotonic() const = 0;
  // Wall-clock time, for people and for records only.
  virtual absl::Time Now() const = 0;
};

// The machine's clocks (CLOCK_MONOTONIC and the system time).
class RealClock final : public Clock {
 public:
  absl::Duration Monotonic() const override;
  absl::Time Now() const override;
};

}  // namespace gma

#endif  // GMA_BASE_CLOCK_H_
