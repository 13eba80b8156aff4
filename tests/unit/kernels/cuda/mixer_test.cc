// The GPU's mixer against the reference kernel, and its promise of equal bits: on a GPU, and in
// kernels_cuda_emulated_test on the CPU.
#include "model/kernels/cuda/mixer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/cuda/device_memory.h"
#include "model/kernels/cuda/device_mixer.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/kernels/cpu/mixer_cases.h"

namespace gma::cuda {
namespace {

using testing::CaseMixer;
using testing::Distance;
using testing::IsOk;
using testing::MixerCase;
using testing::SameBits;
using testing::TestToken;
using testing::Tokens;

// A layer's rows on the device, all zero at first, and steps through them.
class DeviceRows {
 public:
  // Row 0 stands for the scratch row: nothing may change it.
  DeviceRows(const CaseMixer& layer, int32_t rows) : rows_(rows + 1) {
    const MixerConstants& c = layer.mixer.constants;
    const size_t groups = c.memory_heads, v = c.head_dim, r = c.routing_dim;
    const size_t width = c.adapted ? 2 * v : v, slots = groups * c.components;
    const size_t channels = (c.adapted ? 0 : c.heads * r) + groups * (r + v);
    const size_t window = c.window;
    size_t at = 64;  // behind the position
    const auto block = [&](size_t bytes) {
      const size_t begin = at;
      at = (at + bytes + 63) / 64 * 64;
      return begin;
    };
    place_.mass = block(slots * sizeof(double));
    const size_t horizon = layer.mixer.slot_position.size();
    place_.slot_position = horizon > 0 ? block(horizon * sizeof(double)) : MixerLayer::kAbsent;
    place_.memory = block(slots * width * sizeof(float));
    place_.compensation = layer.mixer.compensation.empty() ? MixerLayer::kAbsent
                                                           : block(slots * width * sizeof(float));
    place_.conv = block(c.conv_width > 1 ? (c.conv_width - 1) * channels * sizeof(float) : 0);
    place_.window_key = block(window * groups * v * sizeof(float));
    place_.window_value = block(window * groups * v * sizeof(float));
    place_.window_route =
        c.key_route == nullptr ? block(window * groups * r * sizeof(float)) : MixerLayer::kAbsent;
    place_.window_log_decay = block(window * groups * sizeof(float));
    row_bytes_ = at;
    pool_.assign(row_bytes_ * static_cast<size_t>(rows_), 0);
    auto mixer = DeviceMixer::Create(c, place_);
    EXPECT_THAT(mixer, IsOk());
    mixer_.push_back(*std::move(mixer));
  }

  uint8_t* row(int32_t index) { return pool_.data() + static_cast<size_t>(index) * row_bytes_; }
  template <typename T>
  std::vector<T> Numbers(int32_t index, size_t offset, size_t count) {
    std::vector<T> numbers(count);
    if (count > 0) std::memcpy(numbers.data(), row(index) + offset, count * sizeof(T));
    return numbers;
  }
  const MixerLayer& place() const { return place_; }
  size_t row_bytes() const { return row_bytes_; }

  static void Append(const CaseMixer::PackedTokens& more, CaseMixer::PackedTokens& all) {
    using Packed = CaseMixer::PackedTokens;
    for (auto member : {&Packed::projected, &Packed::cos, &Packed::sin, &Packed::log_decay}) {
      (all.*member).insert((all.*member).end(), (more.*member).begin(), (more.*member).end());
    }
  }

  // The next tokens of some rows, in one step; returns the outputs [T, H v], row after row.
  struct Part {
    int32_t row;
    const std::vector<TestToken>* tokens;
    size_t begin, end;
  };
  std::vector<float> Step(CaseMixer& layer, const std::vector<Part>& parts, int32_t threads) {
    CaseMixer::PackedTokens all;
    std::vector<int32_t> state_rows, firsts, counts;
    int64_t tokens = 0;
    for (const Part& part : parts) {
      layer.mixer.position = static_cast<int64_t>(part.begin);
      CaseMixer::PackedTokens packed = layer.Pack(*part.tokens, part.begin, part.end);
      if (part.begin < part.end) all.tokens = packed.tokens;
      Append(packed, all);
      const int64_t position = static_cast<int64_t>(part.begin);
      std::memcpy(row(part.row), &position, sizeof(position));
      state_rows.push_back(part.row);
      firsts.push_back(static_cast<int32_t>(tokens));
      counts.push_back(static_cast<int32_t>(part.end - part.begin));
      tokens += static_cast<int64_t>(part.end - part.begin);
    }
    std::vector<float> out(static_cast<size_t>(tokens * layer.out_width()), NAN);
    const auto pool = *DeviceArray<uint8_t>::Copy(pool_);
    const auto device_rows = *DeviceArray<int32_t>::Copy(state_rows);
    const auto device_firsts = *DeviceArray<int32_t>::Copy(firsts);
    const auto device_counts = *DeviceArray<int32_t>::Copy(counts);
    const auto projected = *DeviceArray<float>::Copy(all.projected);
    const auto cosines = *DeviceArray<float>::Copy(all.cos);
    const auto sines = *DeviceArray<float>::Copy(all.sin);
    const auto log_decay = *DeviceArray<float>::Copy(all.log_decay);
    const auto device_out = *DeviceArray<float>::Copy(out);
    const MixerBatch batch = {.pool = pool.data(),
                              .row_bytes = row_bytes_,
                              .rows = static_cast<int32_t>(parts.size()),
                              .state_row = device_rows.data(),
                              .first = device_firsts.data(),
                              .count = device_counts.data(),
                              .projected = projected.data(),
                              .stride = all.tokens.stride,
                              .route_q = all.tokens.route_q,
                              .route_k = all.tokens.route_k,
                              .value = all.tokens.value,
                              .q = all.tokens.q,
                              .k = all.tokens.k,
                              .gate = all.tokens.gate,
                              .log_decay = log_decay.data(),
                              .rope_cos = cosines.data(),
                              .rope_sin = sines.data(),
                              .out = device_out.data(),
                              .out_stride = layer.out_width()};
    EXPECT_EQ(RunMixer(mixer_[0].layer(), batch, nullptr, threads), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_THAT(pool.Get(absl::MakeSpan(pool_)), IsOk());
    EXPECT_THAT(device_out.Get(absl::MakeSpan(out)), IsOk());
    return out;
  }

 private:
  int32_t rows_;
  MixerLayer place_{};
  size_t row_bytes_;
  std::vector<uint8_t> pool_;
  std::vector<DeviceMixer> mixer_;
};

class CudaMixerTest : public ::testing::TestWithParam<MixerCase> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(CudaMixerTest, AgreesWithTheReference) {
  constexpr size_t kTokens = 80;
  CaseMixer expected(GetParam(), 7), layer(GetParam(), 7);
  const std::vector<TestToken> tokens = Tokens(layer, kTokens);
  DeviceRows rows(layer, 1);
  const std::vector<float> out = rows.Step(layer, {{1, &tokens, 0, kTokens}}, 64);
  std::vector<float> right;
  for (const TestToken& token : tokens) {
    const std::vector<float> one = expected.mixer.Step(token);
    right.insert(right.end(), one.begin(), one.end());
  }
  EXPECT_LT(Distance(out, right), 1e-5);
  const auto& mixer = expected.mixer;
  const MixerConstants& c = mixer.constants;
  const MixerLayer& place = rows.place();
  EXPECT_LT(Distance(rows.Numbers<double>(1, place.mass, mixer.mass.size()), mixer.mass), 1e-6);
  std::vector<float> state = rows.Numbers<float>(1, place.memory, mixer.memory.size());
  for (const double at : rows.Numbers<double>(1, place.slot_position, mixer.slot_position.size())) {
    state.push_back(static_cast<float>(at));
  }
  const size_t groups = c.memory_heads, window = c.window, v = c.head_dim, r = c.routing_dim;
  const size_t channels = (c.adapted ? 0 : c.heads * r) + groups * (r + v);
  const auto add = [&](size_t offset, size_t count) {
    const std::vector<float> block = rows.Numbers<float>(1, offset, count);
    state.insert(state.end(), block.begin(), block.end());
  };
  if (c.conv_width > 0) add(place.conv, (c.conv_width - 1) * channels);
  add(place.window_key, window * groups * v);
  add(place.window_value, window * groups * v);
  if (c.key_route == nullptr) add(place.window_route, window * groups * r);
  add(place.window_log_decay, window * groups);
  EXPECT_LT(Distance(state, expected.StateNumbers()), 1e-5);
}

TEST_P(CudaMixerTest, NeitherBatchNorCutsChangeABit) {
  constexpr size_t kTokens = 12;
  CaseMixer layer(GetParam(), 3);
  const std::vector<TestToken> tokens = Tokens(layer, kTokens), others = Tokens(layer, kTokens);
  DeviceRows whole(layer, 1), cut(layer, 4);
  const std::vector<float> out = whole.Step(layer, {{1, &tokens, 0, kTokens}}, 64);
  const size_t width = static_cast<size_t>(layer.out_width());
  std::vector<float> pieces;
  const std::vector<size_t> ends = {1, 2, 7, kTokens};
  size_t begin = 0;
  for (const size_t end : ends) {
    const std::vector<float> step = cut.Step(layer,
                                             {{3, &others, begin, end},
                                              {2, &tokens, begin, end},
                                              {4, &others, begin, begin + 1},
                                              {1, &others, begin, begin}},
                                             64);
    const auto mine = step.begin() + static_cast<int64_t>((end - begin) * width);
    pieces.insert(pieces.end(), mine, mine + static_cast<int64_t>((end - begin) * width));
    begin = end;
  }
  EXPECT_TRUE(SameBits(pieces, out));
  // But for the positions, which the caller writes.
  EXPECT_EQ(std::memcmp(cut.row(2) + 64, whole.row(1) + 64, whole.row_bytes() - 64), 0);
  for (const int32_t untouched : {0, 1}) {
    const std::vector<uint8_t> row = cut.Numbers<uint8_t>(untouched, 64, cut.row_bytes() - 64);
    EXPECT_EQ(std::accumulate(row.begin(), row.end(), 0), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Options, CudaMixerTest, ::testing::ValuesIn(testing::kMixerCases),
                         [](const auto& chosen) { return chosen.param.name; });

TEST(CudaMixerRefusesTest, SizesThatItCannotTake) {
  MixerLayer layer{};
  layer.heads = layer.memory_heads = 1;
  layer.head_dim = kMaxHeadDim + 1;
  EXPECT_EQ(RunMixer(layer, MixerBatch{}, nullptr), cudaErrorInvalidValue);
  layer.head_dim = 8;
  layer.heads = 3;
  layer.memory_heads = 2;
  EXPECT_EQ(RunMixer(layer, MixerBatch{}, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace gma::cuda
