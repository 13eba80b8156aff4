#include "model/state/state_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

StateLayout SmallLayout() {
  ModelConfig config = {};
  config.num_attention_heads = config.num_memory_heads = 2;
  config.head_dim = 4;
  config.num_components = 4;
  config.routing_dim = 3;
  config.layers.resize(2);
  return *StateLayout::Create(config, false);
}

std::unique_ptr<StatePool> MakePool(int32_t capacity) {
  return *StatePool::Create(SmallLayout(), capacity);
}

bool AllBytesAre(absl::Span<const uint8_t> bytes, uint8_t value) {
  return std::all_of(bytes.begin(), bytes.end(), [&](uint8_t byte) { return byte == value; });
}

TEST(StatePool, CapacityIsKnownAndUseIsCounted) {
  auto pool = MakePool(3);
  EXPECT_EQ(pool->capacity(), 3);
  EXPECT_EQ(pool->used(), 0);
  EXPECT_EQ(pool->row_bytes(), SmallLayout().row_bytes());
  EXPECT_EQ(pool->total_bytes(), 4 * pool->row_bytes());
  GMA_ASSERT_OK_AND_ASSIGN(StateRow row, pool->Acquire());
  EXPECT_EQ(pool->used(), 1);
  row.Release();
  EXPECT_EQ(pool->used(), 0);
}

TEST(StatePool, AFullPoolRefusesAndServesAgainAfterAReturn) {
  auto pool = MakePool(2);
  GMA_ASSERT_OK_AND_ASSIGN(StateRow first, pool->Acquire());
  GMA_ASSERT_OK_AND_ASSIGN(StateRow second, pool->Acquire());
  EXPECT_THAT(pool->Acquire(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("all 2 state rows")));
  first.Release();
  GMA_ASSERT_OK_AND_ASSIGN(StateRow third, pool->Acquire());
  EXPECT_TRUE(third.holds());
}

TEST(StatePool, LeasedRowsAreDistinctAlignedAndNeverTheScratchRow) {
  auto pool = MakePool(5);
  std::vector<StateRow> rows;
  std::set<int32_t> indices;
  for (int i = 0; i < 5; ++i) {
    GMA_ASSERT_OK_AND_ASSIGN(StateRow row, pool->Acquire());
    EXPECT_TRUE(indices.insert(row.index()).second);
    EXPECT_NE(row.index(), pool->scratch_row());
    EXPECT_EQ(row.bytes().size(), pool->row_bytes());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(row.bytes().data()) % 64, 0u);
    EXPECT_EQ(row.bytes().data(), pool->row(row.index()).data());
    rows.push_back(std::move(row));
  }
}

TEST(StatePool, TheNextTenantOfARowSeesNothingOfTheLast) {
  auto pool = MakePool(1);
  for (int tenant = 0; tenant < 3; ++tenant) {
    GMA_ASSERT_OK_AND_ASSIGN(StateRow row, pool->Acquire());
    EXPECT_TRUE(AllBytesAre(row.bytes(), 0)) << "tenant " << tenant;
    std::memset(row.bytes().data(), 0x5a, row.bytes().size());
  }
}

TEST(StatePool, WritingOneRowLeavesItsNeighboursAlone) {
  auto pool = MakePool(3);
  std::vector<StateRow> rows;
  for (int i = 0; i < 3; ++i) rows.push_back(*pool->Acquire());
  std::memset(rows[1].bytes().data(), 0x5a, rows[1].bytes().size());
  std::memset(pool->row(pool->scratch_row()).data(), 0x77, pool->row_bytes());
  EXPECT_TRUE(AllBytesAre(rows[0].bytes(), 0));
  EXPECT_TRUE(AllBytesAre(rows[1].bytes(), 0x5a));
  EXPECT_TRUE(AllBytesAre(rows[2].bytes(), 0));
}

TEST(StatePool, ReturnedRowsArePoisonedInTestBuilds) {
#ifdef GMA_POISON_STATE
  auto pool = MakePool(1);
  GMA_ASSERT_OK_AND_ASSIGN(StateRow row, pool->Acquire());
  const int32_t index = row.index();
  row.Release();
  absl::Span<const uint8_t> bytes = pool->row(index);
  for (size_t i = 0; i + sizeof(double) <= bytes.size(); i += sizeof(double)) {
    float narrow;
    double wide;
    std::memcpy(&narrow, bytes.data() + i, sizeof(narrow));
    std::memcpy(&wide, bytes.data() + i, sizeof(wide));
    ASSERT_TRUE(std::isnan(narrow) && std::isnan(wide)) << "at byte " << i;
  }
#else
  GTEST_SKIP() << "built without GMA_POISON_STATE";
#endif
}

TEST(StateRow, MovesHandTheLeaseOn) {
  auto pool = MakePool(2);
  StateRow row = *pool->Acquire();
  const int32_t index = row.index();
  StateRow moved = std::move(row);
  EXPECT_FALSE(row.holds());  // NOLINT(bugprone-use-after-move): the state after a move is defined
  EXPECT_TRUE(moved.holds());
  EXPECT_EQ(moved.index(), index);
  EXPECT_EQ(pool->used(), 1);
  StateRow other = *pool->Acquire();
  EXPECT_EQ(pool->used(), 2);
  other = std::move(moved);
  EXPECT_EQ(pool->used(), 1) << "assignment returns the row that was held";
  EXPECT_EQ(other.index(), index);
}

TEST(StateRow, ReleasingTwiceOrNothingIsHarmless) {
  auto pool = MakePool(1);
  StateRow row = *pool->Acquire();
  row.Release();
  row.Release();
  StateRow nothing;
  nothing.Release();
  EXPECT_FALSE(nothing.holds());
  EXPECT_EQ(pool->used(), 0);
}

TEST(StateRow, LeavingTheScopeReturnsTheRow) {
  auto pool = MakePool(1);
  {
    StateRow row = *pool->Acquire();
    EXPECT_EQ(pool->used(), 1);
  }
  EXPECT_EQ(pool->used(), 0);
}

// Pages of `bytes` that are in memory. REQUIRES: the bytes start at a page.
size_t ResidentPages(absl::Span<uint8_t> bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident((bytes.size() + page - 1) / page);
  GMA_CHECK(mincore(bytes.data(), bytes.size(), resident.data()) == 0);
  return static_cast<size_t>(std::count_if(resident.begin(), resident.end(),
                                           [](unsigned char flags) { return flags & 1; }));
}

TEST(StatePool, RowsThatNobodyWroteNeedNoMemoryYet) {
  ModelConfig config = {};
  config.num_attention_heads = config.num_memory_heads = 64;
  config.head_dim = 64;
  config.num_components = 256;
  config.layers.resize(1);
  GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout, StateLayout::Create(config, false));
  ASSERT_GT(layout.row_bytes(), size_t{4} << 20);
  GMA_ASSERT_OK_AND_ASSIGN(auto pool, StatePool::Create(layout, 1));
  GMA_ASSERT_OK_AND_ASSIGN(StateRow row, pool->Acquire());
  EXPECT_EQ(ResidentPages(row.bytes()), 0u);
  std::memset(row.bytes().data(), 1, row.bytes().size());
  EXPECT_GT(ResidentPages(row.bytes()), 1000u);
}

TEST(StatePool, MemoryThatCannotBeHadIsAnErrorThatNamesTheBytes) {
  ModelConfig config = {};
  config.num_attention_heads = config.num_memory_heads = 1024;
  config.head_dim = 512;
  config.num_components = 1024;
  config.layers.resize(1);
  GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout, StateLayout::Create(config, false));
  EXPECT_THAT(StatePool::Create(layout, INT32_MAX),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr(std::to_string((size_t{1} << 31) * layout.row_bytes()))));
}

TEST(StatePoolDeathTest, MistakesOfOursStopTheProcess) {
  auto pool = MakePool(2);
  EXPECT_DEATH((void)pool->row(-1), "check failed");
  EXPECT_DEATH((void)pool->row(3), "check failed");
  EXPECT_DEATH((void)StateRow().bytes(), "check failed");
  EXPECT_DEATH((void)StatePool::Create(SmallLayout(), 0), "check failed");
  EXPECT_DEATH(
      {
        auto short_lived = std::make_optional(MakePool(1));
        StateRow row = *(*short_lived)->Acquire();
        short_lived.reset();
      },
      "check failed");
}

}  // namespace
}  // namespace gma
