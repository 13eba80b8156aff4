// One store of each kind for the contract's tests, with a clock the test moves.
#ifndef GMA_TESTS_UNIT_STORE_STORE_CONTRACT_H_
#define GMA_TESTS_UNIT_STORE_STORE_CONTRACT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/store/session_store.h"
#include "tests/support/fake_clock.h"

namespace gma::testing {

// Hex of 32 digits that ends in `number`.
inline std::string StoreName(uint64_t number) {
  return absl::StrCat(absl::Hex(0x1234567890abcdefULL), absl::Hex(number, absl::kZeroPad16));
}
inline StoreKey SomeKey(uint64_t id = 1, uint64_t owner = 1) {
  return {StoreName(1000 + owner), StoreName(id)};
}

class StoreSetUp {
 public:
  virtual ~StoreSetUp() = default;
  virtual SessionStore& store() = 0;
  // As another server sees the same sessions; of a store that one server holds, the same object.
  virtual SessionStore& other() = 0;
  // Ends the store and opens it again, as a restart does.
  virtual void Restart() = 0;

  FakeClock clock;
};

// Null when the machine lacks what the store needs; says so.
using MakeStoreSetUp = std::function<std::unique_ptr<StoreSetUp>()>;

struct StoreCase {
  std::string name;
  MakeStoreSetUp make;
};

}  // namespace gma::testing

#endif  // GMA_TESTS_UNIT_STORE_STORE_CONTRACT_H_
