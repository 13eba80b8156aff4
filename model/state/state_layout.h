// Where everything of a session's past stands in its state row: one contiguous block of fixed size,
// the same in the pool, in host memory, on disk and on the wire (little endian).
//
//   int64 position                                    tokens fed so far, at offset 0
//   for each layer, blocks aligned to 64 bytes:
//     mass              float64 [G, K]
//     slot_position     float64 [G, K]                mean position of a slot's tokens; only with
//                                                     slot_horizon and read "adapted"
//     memory            float32 [G, K, M]             running means; M = v, or 2v with read
//                                                     "adapted": values, then rotated keys
//     compensation      float32 [G, K, M]             only if compensated
//     conv              float32 [w - 1, C]            short_conv = w: last raw projections
//     window_key        float32 [w, G, v]             window = w: rotated keys
//     window_value      float32 [w, G, v]
//     window_route      float32 [w, G, r]             after convolution and norm; not with route
//                                                     "key"
//     window_log_decay  float32 [w, G]                only with forget "head"
//
// Rings are indexed by position: token t of the session (t = 0, 1, ...) stands in entry t mod w of
// a window and t mod (w - 1) of a convolution; entries of tokens before 0 are not read.
// A row of zero bytes is the initial state.
#ifndef GMA_MODEL_STATE_STATE_LAYOUT_H_
#define GMA_MODEL_STATE_STATE_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/config/model_config.h"

namespace gma {

inline constexpr uint32_t kStateLayoutVersion = 1;

// Offsets in bytes from the start of the row; kAbsent for a block that the options leave out.
struct LayerLayout {
  static constexpr size_t kAbsent = static_cast<size_t>(-1);
  size_t mass, memory;
  size_t slot_position = kAbsent;
  size_t compensation = kAbsent;
  size_t conv = kAbsent;
  size_t window_key = kAbsent, window_value = kAbsent, window_route = kAbsent;
  size_t window_log_decay = kAbsent;
  int32_t memory_dim;     // M
  int32_t conv_channels;  // C, 0 without short_conv
};

// A value. THREADS: immutable.
class StateLayout {
 public:
  // ERRORS: kInvalidArgument when a row would exceed 4 GiB.
  static absl::StatusOr<StateLayout> Create(const ModelConfig& config, bool compensated);

  size_t row_bytes() const { return row_bytes_; }  // a multiple of 64
  const std::vector<LayerLayout>& layers() const { return layers_; }
  bool compensated() const { return compensated_; }

 private:
  StateLayout() = default;

  std::vector<LayerLayout> layers_;
  size_t row_bytes_ = 0;
  bool compensated_ = false;
};

}  // namespace gma

#endif  // GMA_MODEL_STATE_STATE_LAYOUT_H_
