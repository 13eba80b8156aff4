// Faults on purpose: named points in the code where a test makes a system call fail or the process
// die. Off, a point costs one relaxed load.
//   if (int error = GMA_FAILPOINT("store.write"); error != 0) { errno = error; return -1; }
// Tests switch points on with SetFailpoints; a process started with GMA_FAILPOINTS in its
// environment reads that at its first point, and does not start to work when it is malformed.
#ifndef GMA_BASE_FAILPOINT_H_
#define GMA_BASE_FAILPOINT_H_

#include <atomic>
#include <string_view>

#include "absl/status/status.h"

namespace gma {

// Replaces all points. `points`: NAME=ACTION separated by `;`. An ACTION is the name of an errno
// (EIO, ENOSPC, EROFS, EDQUOT) or `crash` (SIGKILL to this process), with @N behind it at
// the Nth time the point is reached only, else each time. ERRORS: kInvalidArgument.
absl::Status SetFailpoints(std::string_view points);
void ClearFailpoints();

namespace failpoint_internal {
// False once it is known that no point is on.
extern std::atomic<bool> maybe_on;
int Reach(std::string_view name);
}  // namespace failpoint_internal

}  // namespace gma

// The errno to fail with, 0 to go on.
#define GMA_FAILPOINT(name)                                            \
  (::gma::failpoint_internal::maybe_on.load(std::memory_order_relaxed) \
       ? ::gma::failpoint_internal::Reach(name)                        \
       : 0)

#endif  // GMA_BASE_FAILPOINT_H_
