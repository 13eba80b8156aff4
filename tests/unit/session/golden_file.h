// Files of tests/golden/snapshot.
#ifndef GMA_TESTS_UNIT_SESSION_GOLDEN_FILE_H_
#define GMA_TESTS_UNIT_SESSION_GOLDEN_FILE_H_

#include <string>

#include "base/check.h"
#include "base/mapped_file.h"

namespace gma::testing {

inline std::string GoldenFile(const std::string& name) {
  const auto bytes =
      ReadFile(std::string(GMA_SOURCE_DIR) + "/tests/golden/snapshot/" + name, 1 << 20);
  GMA_CHECK(bytes.ok());
  return *bytes;
}

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_SESSION_GOLDEN_FILE_H_
