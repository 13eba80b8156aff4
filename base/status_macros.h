// Early return on a failed absl::Status or absl::StatusOr.
#ifndef GMA_BASE_STATUS_MACROS_H_
#define GMA_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define GMA_MACRO_CONCAT_INNER(a, b) a##b
#define GMA_MACRO_CONCAT(a, b) GMA_MACRO_CONCAT_INNER(a, b)

// Returns from the calling function when `expr`, an absl::Status, is not OK.
#define GMA_RETURN_IF_ERROR(expr)                             \
  do {                                                        \
    if (absl::Status gma_status = (expr); !gma_status.ok()) { \
      return gma_status;                                      \
    }                                                         \
  } while (false)

// Evaluates `expr`, an absl::StatusOr<T>; returns its status, or assigns its value to `lhs`.
#define GMA_ASSIGN_OR_RETURN(lhs, expr) \
  GMA_ASSIGN_OR_RETURN_IMPL(GMA_MACRO_CONCAT(gma_status_or_, __LINE__), lhs, expr)
#define GMA_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = *std::move(tmp)

#endif  // GMA_BASE_STATUS_MACROS_H_
