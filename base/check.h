// Broken invariants of ours stop the process, in release builds too. Nothing a client sends may
// reach a check: bad input is an absl::Status.
#ifndef GMA_BASE_CHECK_H_
#define GMA_BASE_CHECK_H_

namespace gma {

// Prints "file:line: check failed: expression" to standard error and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* expression);

}  // namespace gma

// Aborts unless `condition` holds.
#define GMA_CHECK(condition)                           \
  (static_cast<bool>(condition) ? static_cast<void>(0) \
                                : ::gma::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // GMA_BASE_CHECK_H_
