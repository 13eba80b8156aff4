// In which pieces, and in which order, a layer's mixer does the rows of a batch: a long prompt is
// cut, so that three memory heads of one row keep two threads busy to the end.
#ifndef GMA_MODEL_DECODER_MIX_SCHEDULE_H_
#define GMA_MODEL_DECODER_MIX_SCHEDULE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/decoder/flat_batch.h"

namespace gma {

// Assign allocates nothing.
class MixSchedule {
 public:
  // Tokens [begin, begin + count) of a row through one memory head.
  struct Piece {
    int32_t row, head;
    int64_t begin, count;
  };

  MixSchedule(int32_t max_rows, int32_t max_tokens, int32_t memory_heads);

  void Assign(const std::vector<FlatBatch::Row>& rows);

  // A piece follows the one before it of the same row and head. So pieces begin in this order:
  // whoever waits in Await waits for pieces that have begun.
  const std::vector<Piece>& pieces() const { return pieces_; }

  // Before a layer.
  void Restart();
  // Around a piece, by the thread that does it: returns when the piece before it is done; says that
  // this one is.
  void Await(const Piece& piece) const;
  void Done(const Piece& piece);

 private:
  size_t index(const Piece& piece) const {
    return static_cast<size_t>(piece.row) * static_cast<size_t>(memory_heads_) +
           static_cast<size_t>(piece.head);
  }

  const int32_t memory_heads_;
  std::vector<Piece> pieces_;
  std::vector<std::atomic<int64_t>> tokens_done_;  // [rows, heads]
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_MIX_SCHEDULE_H_
