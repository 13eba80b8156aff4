#include "model/state/state_layout.h"

#include <initializer_list>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"

namespace gma {
namespace {

constexpr uint64_t kMaxRowBytes = uint64_t{1} << 32;
constexpr uint64_t kBlockAlignment = 64;

// Places blocks one after the other. Once the row is too large it stays so, and offsets mean
// nothing any more.
class RowBuilder {
 public:
  // Appends a block of the product of `sizes` bytes; returns its offset.
  size_t Add(std::initializer_list<uint64_t> sizes) {
    std::optional<uint64_t> bytes = 1;
    for (uint64_t size : sizes) {
      bytes = CheckedMul(*bytes, size);
      if (!bytes.has_value() || *bytes > kMaxRowBytes) {
        too_large_ = true;
        return 0;
      }
    }
    const uint64_t offset = end_;
    end_ = (end_ + *bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
    if (end_ > kMaxRowBytes) {
      too_large_ = true;
      end_ = 0;
    }
    return offset;
  }
  bool too_large() const { return too_large_; }
  uint64_t end() const { return end_; }

 private:
  uint64_t end_ = 0;  // a multiple of kBlockAlignment
  bool too_large_ = false;
};

LayerLayout AddLayer(const ModelConfig& config, const MixerOptions& options, bool compensated,
                     RowBuilder& row) {
  const auto G = static_cast<uint64_t>(config.num_memory_heads);
  const auto K = static_cast<uint64_t>(config.num_components);
  const auto v = static_cast<uint64_t>(config.head_dim);
  const auto r = static_cast<uint64_t>(config.routing_dim);
  const auto window = static_cast<uint64_t>(options.window);
  LayerLayout layer;
  layer.memory_dim = options.adapted() ? 2 * config.head_dim : config.head_dim;
  const auto M = static_cast<uint64_t>(layer.memory_dim);
  layer.mass = row.Add({G, K, sizeof(double)});
  if (config.slot_horizon > 0 && options.adapted()) {
    layer.slot_position = row.Add({G, K, sizeof(double)});
  }
  layer.memory = row.Add({G, K, M, sizeof(float)});
  if (compensated) layer.compensation = row.Add({G, K, M, sizeof(float)});
  layer.conv_channels = 0;
  if (options.short_conv > 0) {
    layer.conv_channels = config.ConvChannels(options);
    layer.conv = row.Add({static_cast<uint64_t>(options.short_conv - 1),
                          static_cast<uint64_t>(layer.conv_channels), sizeof(float)});
  }
  if (window > 0) {
    layer.window_key = row.Add({window, G, v, sizeof(float)});
    layer.window_value = row.Add({window, G, v, sizeof(float)});
    if (options.has_route_k()) layer.window_route = row.Add({window, G, r, sizeof(float)});
    if (options.forget == ForgetMode::kHead) {
      layer.window_log_decay = row.Add({window, G, sizeof(float)});
    }
  }
  return layer;
}

}  // namespace

absl::StatusOr<StateLayout> StateLayout::Create(const ModelConfig& config, bool compensated) {
  StateLayout layout;
  layout.compensated_ = compensated;
  RowBuilder row;
  row.Add({sizeof(int64_t)});  // position, at offset 0
  for (const MixerOptions& options : config.layers) {
    layout.layers_.push_back(AddLayer(config, options, compensated, row));
    if (row.too_large()) {
      return absl::InvalidArgumentError(absl::StrCat("a state row would exceed ", kMaxRowBytes,
                                                     " bytes at layer ", layout.layers_.size(),
                                                     " of ", config.layers.size()));
    }
  }
  layout.row_bytes_ = row.end();
  return layout;
}

}  // namespace gma
