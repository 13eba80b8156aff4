#include "model/state/row_codec.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace gma {
namespace {

constexpr auto kBfloat16 = RowEncoding::kBfloat16;

ModelConfig Config(const std::vector<MixerOptions>& layers) {
  ModelConfig config{};
  config.num_attention_heads = 6;  // odd sizes: nothing falls on a boundary by itself
  config.num_memory_heads = 3;
  config.num_components = 5;
  config.head_dim = 6;
  config.routing_dim = 7;
  config.layers = layers;
  return config;
}

// What a layer of each option adds to its row, alone and all together.
const std::vector<std::vector<MixerOptions>> kLayers = {
    {{}},
    {{.read = ReadMode::kAdapted}},
    {{.short_conv = 4}},
    {{.forget = ForgetMode::kHead}},
    {{.forget = ForgetMode::kWrite}},
    {{.window = 7}},
    {{.window = 7, .read = ReadMode::kAdapted}},
    {{.window = 7, .forget = ForgetMode::kHead}},
    {{.window = 7, .forget = ForgetMode::kWrite}},
    {{},
     {.window = 3, .short_conv = 5, .read = ReadMode::kAdapted, .forget = ForgetMode::kHead},
     {}},
};

// A block of a row, and how it is to come back.
struct Block {
  std::string name;
  size_t begin, count;
  enum { kDouble, kFloat, kExactFloat, kZero } kind;
};

std::vector<Block> BlocksOf(const ModelConfig& config, const StateLayout& layout) {
  std::vector<Block> blocks;
  const auto G = static_cast<size_t>(config.num_memory_heads);
  const auto K = static_cast<size_t>(config.num_components);
  const auto v = static_cast<size_t>(config.head_dim);
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const LayerLayout& layer = layout.layers()[i];
    const auto w = static_cast<size_t>(config.layers[i].window);
    const size_t memory = G * K * static_cast<size_t>(layer.memory_dim);
    const size_t conv = static_cast<size_t>(std::max(config.layers[i].short_conv - 1, 0)) *
                        static_cast<size_t>(layer.conv_channels);
    const Block all[] = {
        {"mass", layer.mass, G * K, Block::kDouble},
        {"slot_position", layer.slot_position, G * K, Block::kDouble},
        {"memory", layer.memory, memory, Block::kFloat},
        {"compensation", layer.compensation, memory, Block::kZero},
        {"conv", layer.conv, conv, Block::kFloat},
        {"window_key", layer.window_key, w * G * v, Block::kFloat},
        {"window_value", layer.window_value, w * G * v, Block::kFloat},
        {"window_route", layer.window_route, w * G * 7, Block::kFloat},
        {"window_log_decay", layer.window_log_decay, w * G, Block::kExactFloat},
    };
    for (const Block& block : all) {
      if (block.begin != LayerLayout::kAbsent) blocks.push_back(block);
    }
  }
  return blocks;
}

// Numbers of all sizes in every block; padding stays zero, as in the pool.
RowBytes RandomRow(const StateLayout& layout, const std::vector<Block>& blocks, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  RowBytes row(layout.row_bytes());
  const int64_t position = 123'456'789'012;
  std::memcpy(row.data(), &position, sizeof(position));
  for (const Block& block : blocks) {
    for (size_t i = 0; i < block.count; ++i) {
      const double number = normal(random) * std::exp(8 * normal(random));
      const auto single = static_cast<float>(number);
      uint8_t* const at = row.data() + block.begin;
      if (block.kind == Block::kDouble) {
        std::memcpy(at + 8 * i, &number, 8);
      } else {
        std::memcpy(at + 4 * i, &single, 4);
      }
    }
  }
  return row;
}

template <typename T>
T At(const RowBytes& row, size_t offset) {
  T value;
  std::memcpy(&value, row.data() + offset, sizeof(value));
  return value;
}

RowBytes Decoded(const StateLayout& layout, const RowBytes& encoded, RowEncoding encoding) {
  RowBytes row(layout.row_bytes(), 0xee);  // all of it is written
  DecodeRow(layout, encoded, encoding, absl::MakeSpan(row));
  return row;
}

class RowCodecTest : public ::testing::TestWithParam<std::tuple<size_t, bool>> {
 protected:
  const ModelConfig config = Config(kLayers[std::get<0>(GetParam())]);
  const StateLayout layout = *StateLayout::Create(config, std::get<1>(GetParam()));
  const std::vector<Block> blocks = BlocksOf(config, layout);
};

TEST_P(RowCodecTest, Float32IsTheRowItself) {
  const RowBytes row = RandomRow(layout, blocks, 1);
  EXPECT_EQ(EncodedBytes(layout, RowEncoding::kFloat32), layout.row_bytes());
  const RowBytes encoded = EncodeRow(layout, row, RowEncoding::kFloat32);
  EXPECT_EQ(encoded, row);
  EXPECT_EQ(Decoded(layout, encoded, RowEncoding::kFloat32), row);
}

TEST_P(RowCodecTest, Bfloat16RoundsFloatsAndNothingElse) {
  const RowBytes row = RandomRow(layout, blocks, 2);
  const RowBytes encoded = EncodeRow(layout, row, kBfloat16);
  EXPECT_EQ(encoded.size(), EncodedBytes(layout, kBfloat16));
  const RowBytes decoded = Decoded(layout, encoded, kBfloat16);
  EXPECT_EQ(At<int64_t>(decoded, 0), 123'456'789'012);
  RowBytes rest = decoded;  // what no block holds
  std::memset(rest.data(), 0, 8);
  for (const Block& block : blocks) {
    const size_t size = block.kind == Block::kDouble ? 8 : 4;
    std::memset(rest.data() + block.begin, 0, size * block.count);
    for (size_t i = 0; i < block.count; ++i) {
      const size_t at = block.begin + size * i;
      if (block.kind == Block::kDouble) {
        ASSERT_EQ(At<double>(decoded, at), At<double>(row, at)) << block.name << " " << i;
        continue;
      }
      const float was = At<float>(row, at), is = At<float>(decoded, at);
      if (block.kind == Block::kZero) {
        ASSERT_EQ(std::bit_cast<uint32_t>(is), 0u) << block.name << " " << i;
      } else if (block.kind == Block::kExactFloat) {
        ASSERT_EQ(is, was) << block.name << " " << i;
      } else {
        ASSERT_LE(std::abs(is - was), std::abs(was) * 0x1p-8f) << block.name << " " << i;
        ASSERT_EQ(std::bit_cast<uint32_t>(is) & 0xffff, 0u) << block.name << " " << i;
      }
    }
  }
  EXPECT_THAT(rest, ::testing::Each(0));
  EXPECT_EQ(EncodeRow(layout, decoded, kBfloat16), encoded);  // nothing is rounded twice
}

INSTANTIATE_TEST_SUITE_P(EveryOption, RowCodecTest,
                         ::testing::Combine(::testing::Range<size_t>(0, kLayers.size()),
                                            ::testing::Bool()));

TEST(RowCodec, AFreshRowStaysFresh) {
  const StateLayout layout = *StateLayout::Create(Config(kLayers.back()), true);
  const RowBytes zeros(layout.row_bytes());
  EXPECT_EQ(Decoded(layout, EncodeRow(layout, zeros, kBfloat16), kBfloat16), zeros);
}

TEST(RowCodec, RoundsToTheNearestAndTiesToEven) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const StateLayout layout = *StateLayout::Create(Config({{}}), false);
  const size_t at = layout.layers()[0].memory;
  const auto kept = [&](uint32_t bits) {
    RowBytes row(layout.row_bytes());
    std::memcpy(row.data() + at, &bits, 4);
    return At<uint32_t>(Decoded(layout, EncodeRow(layout, row, kBfloat16), kBfloat16), at);
  };
  EXPECT_EQ(kept(0x3f808000), 0x3f800000u);  // a tie: down to even
  EXPECT_EQ(kept(0x3f818000), 0x3f820000u);  // a tie: up to even
  EXPECT_EQ(kept(0x3f808001), 0x3f810000u);
  EXPECT_EQ(kept(0x3f817fff), 0x3f810000u);
  EXPECT_EQ(kept(0xbf818000), 0xbf820000u);
  EXPECT_EQ(kept(0x00000001), 0u);  // the smallest subnormal
  EXPECT_EQ(kept(0x80000001), 0x80000000u);
  EXPECT_EQ(kept(0x3fffffff), 0x40000000u);  // carries into the exponent
  EXPECT_EQ(kept(std::bit_cast<uint32_t>(kInfinity)), std::bit_cast<uint32_t>(kInfinity));
  EXPECT_EQ(kept(0x7f7fffff), std::bit_cast<uint32_t>(kInfinity));
  EXPECT_TRUE(std::isnan(std::bit_cast<float>(kept(0x7f800001))));  // its payload is cut off
  EXPECT_TRUE(std::isnan(std::bit_cast<float>(kept(0xffffffff))));
}

TEST(RowCodec, TheDefaultModelsRowTakesAboutHalf) {
  ModelConfig config{};  // 12 layers of the default sizes, plain
  config.num_attention_heads = config.num_memory_heads = 12;
  config.head_dim = 64;
  config.num_components = 64;
  config.routing_dim = 16;
  config.layers.resize(12);
  const StateLayout layout = *StateLayout::Create(config, false);
  // All the memory's floats at two bytes; masses and the line of the position as they are.
  EXPECT_EQ(EncodedBytes(layout, kBfloat16), 64u + 12u * 12 * 64 * (8 + 64 * 2));
}

}  // namespace
}  // namespace gma
