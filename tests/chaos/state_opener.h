// Opens exported sessions, to compare what is in them.
#ifndef GMA_TESTS_CHAOS_STATE_OPENER_H_
#define GMA_TESTS_CHAOS_STATE_OPENER_H_

#include <string>

#include "absl/status/statusor.h"
#include "tests/chaos/application.h"

namespace gma::chaos {

// Of servers of the model in this directory that were started with this --state_key, which is made
// when there is none, and without API keys.
// ERRORS: those of the files.
absl::StatusOr<OpenState> MakeStateOpener(const std::string& model, const std::string& state_key);

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_STATE_OPENER_H_
