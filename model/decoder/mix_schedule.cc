#include "model/decoder/mix_schedule.h"

#include <algorithm>
#include <thread>

#include "hwy/cache_control.h"

namespace gma {
namespace {

// Tokens of a piece. Its state may move to another core's cache, which takes a few per cent of it.
constexpr int64_t kPieceTokens = 64;
constexpr int32_t kSpins = 2000;  // before a waiting thread offers its processor to others

}  // namespace

MixSchedule::MixSchedule(int32_t max_rows, int32_t max_tokens, int32_t memory_heads)
    : memory_heads_(memory_heads),
      tokens_done_(static_cast<size_t>(max_rows) * static_cast<size_t>(memory_heads)) {
  const int64_t most = max_rows + max_tokens / kPieceTokens;
  pieces_.reserve(static_cast<size_t>(most) * static_cast<size_t>(memory_heads));
}

void MixSchedule::Assign(const std::vector<FlatBatch::Row>& rows) {
  pieces_.clear();
  int64_t longest = 0;
  for (const FlatBatch::Row& row : rows) longest = std::max(longest, row.count);
  for (int64_t begin = 0; begin < longest; begin += kPieceTokens) {
    for (size_t row = 0; row < rows.size(); ++row) {
      if (rows[row].count <= begin) continue;
      const int64_t count = std::min(kPieceTokens, rows[row].count - begin);
      for (int32_t head = 0; head < memory_heads_; ++head) {
        pieces_.push_back({static_cast<int32_t>(row), head, begin, count});
      }
    }
  }
}

void MixSchedule::Restart() {
  for (const Piece& piece : pieces_) {
    tokens_done_[index(piece)].store(0, std::memory_order_relaxed);
  }
}

void MixSchedule::Await(const Piece& piece) const {
  const std::atomic<int64_t>& done = tokens_done_[index(piece)];
  for (int32_t spin = 0; done.load(std::memory_order_acquire) < piece.begin; ++spin) {
    if (spin < kSpins) {
      hwy::Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void MixSchedule::Done(const Piece& piece) {
  tokens_done_[index(piece)].store(piece.begin + piece.count, std::memory_order_release);
}

}  // namespace gma
