#include "model/decoder/mix_schedule.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/decoder/thread_pool.h"

namespace gma {
namespace {

std::vector<FlatBatch::Row> Rows(const std::vector<int64_t>& counts) {
  std::vector<FlatBatch::Row> rows;
  int64_t first = 0;
  for (const int64_t count : counts) {
    rows.push_back({.first = first, .count = count, .state_row = 0, .padding = false});
    first += count;
  }
  return rows;
}

TEST(MixSchedule, CoversEveryTokenOfEveryHeadInOrder) {
  const std::vector<int64_t> counts = {1, 200, 64, 65};
  MixSchedule schedule(4, 330, 3);
  schedule.Assign(Rows(counts));
  std::map<std::pair<int32_t, int32_t>, int64_t> fed;  // by row and head
  for (const MixSchedule::Piece& piece : schedule.pieces()) {
    int64_t& done = fed[{piece.row, piece.head}];
    EXPECT_EQ(piece.begin, done);
    EXPECT_GT(piece.count, 0);
    done += piece.count;
  }
  ASSERT_EQ(fed.size(), 12u);
  for (const auto& [which, done] : fed) EXPECT_EQ(done, counts[static_cast<size_t>(which.first)]);
}

// Without Await two threads would run pieces of a head side by side.
TEST(MixSchedule, PiecesOfAHeadFollowEachOther) {
  MixSchedule schedule(2, 3000, 3);
  schedule.Assign(Rows({2000, 1000}));
  ThreadPool pool(4);
  std::vector<int64_t> fed(6);  // no atomics: a piece is seen whole by the next one
  for (int32_t layer = 0; layer < 200; ++layer) {
    schedule.Restart();
    std::fill(fed.begin(), fed.end(), 0);
    pool.Run(static_cast<int64_t>(schedule.pieces().size()), [&](int64_t item, int32_t) {
      const MixSchedule::Piece& piece = schedule.pieces()[static_cast<size_t>(item)];
      schedule.Await(piece);
      int64_t& tokens = fed[static_cast<size_t>(piece.row * 3 + piece.head)];
      EXPECT_EQ(tokens, piece.begin);
      tokens += piece.count;
      schedule.Done(piece);
    });
    for (size_t i = 0; i < fed.size(); ++i) ASSERT_EQ(fed[i], i < 3 ? 2000 : 1000);
  }
}

}  // namespace
}  // namespace gma
