#include "model/state/state_layout.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/support/status_matchers.h"

namespace gma {
namespace {

using ::gma::testing::StatusIs;
using ::testing::HasSubstr;

constexpr size_t kAbsent = LayerLayout::kAbsent;

// H = 12, G, K = 64, r = 16, v = 64: the 125M shape of the reference figures.
ModelConfig MediumConfig(std::vector<MixerOptions> layers) {
  ModelConfig config = {};
  config.vocab_size = 50304;
  config.hidden_size = 768;
  config.num_layers = static_cast<int32_t>(layers.size());
  config.num_attention_heads = 12;
  config.num_memory_heads = 12;
  config.head_dim = 64;
  config.num_components = 64;
  config.routing_dim = 16;
  config.intermediate_size = 2432;
  config.layers = std::move(layers);
  return config;
}

struct Block {
  size_t offset, bytes;
};

// The blocks that `layer` has, with the sizes of the header's table.
std::vector<Block> BlocksOf(const ModelConfig& config, const MixerOptions& options,
                            const LayerLayout& layer) {
  const size_t G = static_cast<size_t>(config.num_memory_heads);
  const size_t K = static_cast<size_t>(config.num_components);
  const size_t v = static_cast<size_t>(config.head_dim);
  const size_t r = static_cast<size_t>(config.routing_dim);
  const size_t w = static_cast<size_t>(options.window);
  const size_t memory = G * K * static_cast<size_t>(layer.memory_dim) * 4;
  const size_t conv_rows = static_cast<size_t>(std::max(options.short_conv - 1, 0));
  const std::vector<Block> all = {
      {layer.mass, G * K * 8},
      {layer.slot_position, G * K * 8},
      {layer.memory, memory},
      {layer.compensation, memory},
      {layer.conv, conv_rows * static_cast<size_t>(layer.conv_channels) * 4},
      {layer.window_key, w * G * v * 4},
      {layer.window_value, w * G * v * 4},
      {layer.window_route, w * G * r * 4},
      {layer.window_log_decay, w * G * 4},
  };
  std::vector<Block> present;
  for (const Block& block : all) {
    if (block.offset != kAbsent) present.push_back(block);
  }
  return present;
}

TEST(StateLayout, PlainRowHoldsPositionMassesAndMeans) {
  ModelConfig config = MediumConfig(std::vector<MixerOptions>(12));
  GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout, StateLayout::Create(config, false));
  // 2,433,024 bytes of masses and means (the figure for this shape), and one line for the position.
  EXPECT_EQ(layout.row_bytes(), 2'433'024u + 64u);
  ASSERT_EQ(layout.layers().size(), 12u);
  const LayerLayout& first = layout.layers().front();
  EXPECT_EQ(first.mass, 64u) << "after the position";
  EXPECT_EQ(first.memory, 64u + 12 * 64 * 8);
  EXPECT_EQ(first.memory_dim, 64);
  EXPECT_EQ(first.conv_channels, 0);
  for (size_t absent : {first.compensation, first.conv, first.window_key, first.window_value,
                        first.window_route, first.window_log_decay}) {
    EXPECT_EQ(absent, kAbsent);
  }
}

TEST(StateLayout, OptionsAddTheirBlocks) {
  MixerOptions options = {
      .window = 32, .short_conv = 4, .read = ReadMode::kAdapted, .forget = ForgetMode::kHead};
  ModelConfig config = MediumConfig({options});
  GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout, StateLayout::Create(config, true));
  const LayerLayout& layer = layout.layers().front();
  EXPECT_EQ(layer.memory_dim, 128) << "values, then keys";
  EXPECT_EQ(layer.conv_channels, 12 * (16 + 64));
  EXPECT_EQ(BlocksOf(config, options, layer).size(), 8u);
  EXPECT_TRUE(layout.compensated());
}

TEST(StateLayout, AHorizonKeepsPositionsOfSlots) {
  ModelConfig config = MediumConfig({{.read = ReadMode::kAdapted}, {}});
  config.slot_horizon = 100;
  GMA_ASSERT_OK_AND_ASSIGN(const StateLayout layout, StateLayout::Create(config, false));
  EXPECT_EQ(layout.layers()[0].memory - layout.layers()[0].slot_position, size_t{12} * 64 * 8);
  EXPECT_EQ(layout.layers()[1].slot_position, kAbsent) << "read \"static\" has no positions";
}

TEST(StateLayout, RoutesFromKeysAreNotKept) {
  MixerOptions options = {.window = 32, .read = ReadMode::kAdapted};
  ModelConfig config = MediumConfig({options});
  GMA_ASSERT_OK_AND_ASSIGN(const StateLayout kept, StateLayout::Create(config, false));
  config.layers[0].route = RouteMode::kKey;
  GMA_ASSERT_OK_AND_ASSIGN(const StateLayout layout, StateLayout::Create(config, false));
  EXPECT_EQ(layout.layers().front().window_route, kAbsent);
  EXPECT_EQ(kept.row_bytes() - layout.row_bytes(), size_t{32} * 12 * 16 * 4);
}

TEST(StateLayout, DecayRingNeedsAWindowAndAHeadGate) {
  const MixerOptions cases[] = {
      {.forget = ForgetMode::kHead}, {.window = 8, .forget = ForgetMode::kWrite}, {.window = 8}};
  for (const MixerOptions& options : cases) {
    GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout,
                             StateLayout::Create(MediumConfig({options}), false));
    EXPECT_EQ(layout.layers().front().window_log_decay, kAbsent);
  }
}

TEST(StateLayout, BlocksAreAlignedInOrderAndDoNotOverlap) {
  const std::vector<MixerOptions> layers = {
      {},
      {.short_conv = 2, .forget = ForgetMode::kHead},
      {.window = 7, .forget = ForgetMode::kHead},
      {.window = 3, .short_conv = 5, .read = ReadMode::kAdapted, .forget = ForgetMode::kWrite},
      {.read = ReadMode::kAdapted},
  };
  ModelConfig config = MediumConfig(layers);
  config.num_attention_heads = 6;  // odd sizes: nothing falls on a boundary by itself
  config.num_memory_heads = 3;
  config.num_components = 5;
  config.head_dim = 6;
  config.routing_dim = 7;
  for (bool compensated : {false, true}) {
    GMA_ASSERT_OK_AND_ASSIGN(StateLayout layout, StateLayout::Create(config, compensated));
    size_t end = sizeof(int64_t);
    for (size_t i = 0; i < layers.size(); ++i) {
      for (const Block& block : BlocksOf(config, layers[i], layout.layers()[i])) {
        EXPECT_EQ(block.offset % 64, 0u);
        EXPECT_GE(block.offset, end);
        EXPECT_LT(block.offset, end + 64) << "no gap but the alignment";
        end = block.offset + block.bytes;
      }
    }
    EXPECT_EQ(layout.row_bytes() % 64, 0u);
    EXPECT_GE(layout.row_bytes(), end);
    EXPECT_LT(layout.row_bytes(), end + 64);
  }
}

TEST(StateLayout, RefusesRowsBeyondFourGibibytes) {
  ModelConfig config = MediumConfig({{.window = 65536, .read = ReadMode::kAdapted}});
  config.num_attention_heads = config.num_memory_heads = 1024;
  config.head_dim = 4096;
  config.num_components = 4096;
  EXPECT_THAT(StateLayout::Create(config, true),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4294967296")));
  // Each layer fits, all together do not.
  config = MediumConfig(std::vector<MixerOptions>(1024));
  config.num_components = 4096;
  EXPECT_THAT(StateLayout::Create(config, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4294967296")));
}

}  // namespace
}  // namespace gma
