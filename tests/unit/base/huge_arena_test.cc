#include "base/huge_arena.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace gma {
namespace {

TEST(HugeArena, PiecesAreZeroAlignedAndApart) {
  HugeArena arena;
  std::vector<std::pair<uint8_t*, size_t>> pieces;
  for (const size_t bytes : {1u, 127u, 129u, 70u << 20, 4096u, 60u << 20, 5u << 20, 0u}) {
    uint8_t* piece = arena.Allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % 128, 0u);
    for (size_t i = 0; i < bytes; i += 4096) EXPECT_EQ(piece[i], 0);
    std::memset(piece, static_cast<int>(pieces.size()) + 1, bytes);
    pieces.emplace_back(piece, bytes);
  }
  for (size_t n = 0; n < pieces.size(); ++n) {
    const auto [piece, bytes] = pieces[n];
    for (size_t i = 0; i < bytes; i += 997) ASSERT_EQ(piece[i], n + 1);
    if (bytes > 0) {
      EXPECT_EQ(piece[bytes - 1], n + 1);
    }
  }
}

TEST(HugeArena, MovesWithItsMemory) {
  HugeArena first;
  uint8_t* piece = first.Allocate(1000);
  piece[999] = 7;
  HugeArena second(std::move(first));
  second = std::move(second);
  HugeArena third;
  third.Allocate(10);
  third = std::move(second);
  EXPECT_EQ(piece[999], 7);
  EXPECT_NE(third.Allocate(10), nullptr);
}

TEST(HugeArena, ThrowsWhenTheSystemHasNoMemory) {
  HugeArena arena;
  EXPECT_THROW(arena.Allocate(size_t{1} << 60), std::bad_alloc);
}

}  // namespace
}  // namespace gma
