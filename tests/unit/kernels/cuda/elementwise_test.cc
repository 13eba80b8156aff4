// The GPU's elementwise kernels and its matrix-vector product against plain loops: on a GPU, and in
// kernels_cuda_emulated_test on the CPU.
#include "model/kernels/cuda/elementwise.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/kernels/cuda/device_memory.h"
#include "model/kernels/cuda/gemv.h"
#include "tests/unit/kernels/test_mixer.h"

namespace gma::cuda {
namespace {

using ::gma::testing::RandomNumbers;
using ::testing::FloatNear;
using ::testing::Pointwise;

std::vector<__nv_bfloat16> Rounded(const std::vector<float>& numbers) {
  std::vector<__nv_bfloat16> rounded;
  for (const float x : numbers) rounded.push_back(__float2bfloat16_rn(x));
  return rounded;
}
std::vector<float> Widened(const std::vector<__nv_bfloat16>& numbers) {
  std::vector<float> wide;
  for (const __nv_bfloat16 x : numbers) wide.push_back(__bfloat162float(x));
  return wide;
}
// To bfloat16 and back.
std::vector<float> Coarse(const std::vector<float>& numbers) { return Widened(Rounded(numbers)); }

template <typename T>
DeviceArray<T> ToDevice(const std::vector<T>& numbers) {
  return *DeviceArray<T>::Copy(numbers);
}
template <typename T>
std::vector<T> FromDevice(const DeviceArray<T>& array) {
  std::vector<T> numbers(array.size());
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(array.Get(absl::MakeSpan(numbers)).ok());
  return numbers;
}

class CudaElementwiseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
  }

  RandomNumbers random_{5};
};

TEST_F(CudaElementwiseTest, Embeds) {
  constexpr int32_t kWidth = 300;
  const std::vector<float> table = Coarse(random_.Floats(7 * kWidth));
  const auto device_table = ToDevice(Rounded(table));
  const auto ids = ToDevice<int32_t>({6, 0, 6});
  const auto x = ToDevice(std::vector<float>(3 * kWidth, NAN));
  ASSERT_EQ(RunEmbed(device_table.data(), ids.data(), 3, kWidth, x.data(), nullptr), cudaSuccess);
  std::vector<float> right(table.begin() + 6 * kWidth, table.end());
  right.insert(right.end(), table.begin(), table.begin() + kWidth);
  right.insert(right.end(), table.begin() + 6 * kWidth, table.end());
  EXPECT_EQ(FromDevice(x), right);
}

TEST_F(CudaElementwiseTest, NormsAllTokensOrSome) {
  for (const int32_t width : {40, 576}) {
    const std::vector<float> x = random_.Floats(4 * width), gain = random_.Floats(width, 1);
    const auto device_x = ToDevice(x), device_gain = ToDevice(gain);
    const auto picked = ToDevice<int32_t>({3, 1});
    for (const bool some : {false, true}) {
      const int64_t tokens = some ? 2 : 4;
      const auto out = ToDevice(Rounded(std::vector<float>(tokens * width, 0)));
      ASSERT_EQ(RunRmsNorm(device_x.data(), some ? picked.data() : nullptr, device_gain.data(),
                           1e-5f, tokens, width, out.data(), nullptr),
                cudaSuccess);
      std::vector<float> right;
      for (int64_t token = 0; token < tokens; ++token) {
        const float* row = x.data() + (some ? 3 - 2 * token : token) * width;
        double square = 0;
        for (int32_t i = 0; i < width; ++i) square += double{row[i]} * row[i];
        const double scale = 1 / std::sqrt(square / width + 1e-5);
        for (int32_t i = 0; i < width; ++i) {
          right.push_back(static_cast<float>(row[i] * scale * gain[i]));
        }
      }
      EXPECT_THAT(Widened(FromDevice(out)), Pointwise(FloatNear(0.05f), right));
    }
  }
}

TEST_F(CudaElementwiseTest, SwiGluAndRounding) {
  constexpr int32_t kWidth = 300;
  const std::vector<float> gate_up = random_.Floats(2 * 2 * kWidth);
  const auto device = ToDevice(gate_up);
  const auto out = ToDevice(Rounded(std::vector<float>(2 * kWidth, 0)));
  ASSERT_EQ(RunSwiGlu(device.data(), 2, kWidth, out.data(), nullptr), cudaSuccess);
  std::vector<float> right;
  for (int32_t i = 0; i < 2 * kWidth; ++i) {
    const float* row = gate_up.data() + i / kWidth * 2 * kWidth;
    const double gate = row[i % kWidth];
    right.push_back(static_cast<float>(gate / (1 + std::exp(-gate)) * row[kWidth + i % kWidth]));
  }
  EXPECT_THAT(Widened(FromDevice(out)), Pointwise(FloatNear(0.05f), right));

  const auto rounded = ToDevice(Rounded(std::vector<float>(gate_up.size(), 0)));
  ASSERT_EQ(RunRound(device.data(), 2, 2 * kWidth, rounded.data(), nullptr), cudaSuccess);
  EXPECT_EQ(Widened(FromDevice(rounded)), Coarse(gate_up));
}

TEST_F(CudaElementwiseTest, AnglesOfFarPositionsAndTheirAdvance) {
  constexpr size_t kRowBytes = 64;
  constexpr int32_t kHalf = 5;
  const std::vector<int64_t> positions = {0, 3'000'000'007, 12};
  std::vector<uint8_t> pool(3 * kRowBytes, 0);
  for (size_t row = 0; row < 3; ++row) {
    std::memcpy(pool.data() + row * kRowBytes, &positions[row], sizeof(int64_t));
  }
  std::vector<double> frequency;
  for (int32_t i = 0; i < kHalf; ++i) frequency.push_back(std::pow(10'000, -2.0 * i / 10));
  const auto device_pool = ToDevice(pool);
  const auto device_frequency = ToDevice(frequency);
  const auto state_row = ToDevice<int32_t>({2, 1}), first = ToDevice<int32_t>({3, 0}),
             count = ToDevice<int32_t>({1, 3});
  const StepRows rows = {device_pool.data(), kRowBytes,    2,
                         state_row.data(),   first.data(), count.data()};
  const auto cosines = ToDevice(std::vector<float>(4 * kHalf, NAN));
  const auto sines = ToDevice(std::vector<float>(4 * kHalf, NAN));
  ASSERT_EQ(RunRotationAngles(rows, device_frequency.data(), kHalf, cosines.data(), sines.data(),
                              nullptr),
            cudaSuccess);
  std::vector<float> right_cos, right_sin;
  for (const int64_t position : {positions[1], positions[1] + 1, positions[1] + 2, positions[2]}) {
    for (const double one : frequency) {
      right_cos.push_back(static_cast<float>(std::cos(static_cast<double>(position) * one)));
      right_sin.push_back(static_cast<float>(std::sin(static_cast<double>(position) * one)));
    }
  }
  EXPECT_THAT(FromDevice(cosines), Pointwise(FloatNear(1e-6f), right_cos));
  EXPECT_THAT(FromDevice(sines), Pointwise(FloatNear(1e-6f), right_sin));

  ASSERT_EQ(RunAdvance(rows, nullptr), cudaSuccess);
  pool = FromDevice(device_pool);
  const std::vector<int64_t> after = {0, positions[1] + 3, positions[2] + 1};
  for (size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(std::memcmp(pool.data() + row * kRowBytes, &after[row], sizeof(int64_t)), 0);
  }
}

TEST_F(CudaElementwiseTest, LogDecay) {
  constexpr int64_t kStride = 9, kColumn = 4;
  std::vector<float> projected = random_.Floats(3 * kStride);
  projected[kColumn] = 200;  // where softplus is x itself
  const auto device = ToDevice(projected);
  const auto rate = ToDevice<double>({0.5, 2}), bias = ToDevice<double>({1, -1});
  const auto log_decay = ToDevice(std::vector<float>(3 * 2, NAN));
  ASSERT_EQ(RunLogDecay(device.data(), kStride, kColumn, rate.data(), bias.data(), 3, 2,
                        log_decay.data(), nullptr),
            cudaSuccess);
  std::vector<float> right;
  for (int64_t token = 0; token < 3; ++token) {
    const float* row = projected.data() + token * kStride + kColumn;
    right.push_back(static_cast<float>(-0.5 * std::log1p(std::exp(double{row[0]} + 1))));
    right.push_back(static_cast<float>(-2 * std::log1p(std::exp(double{row[1]} - 1))));
  }
  EXPECT_THAT(FromDevice(log_decay), Pointwise(FloatNear(2e-5f), right));
}

TEST_F(CudaElementwiseTest, ProductsOfAFewTokens) {
  constexpr int64_t kOutputs = 21, kInputs = 584, kStride = 25;
  const std::vector<float> weights = Coarse(random_.Floats(kOutputs * kInputs));
  const std::vector<float> x = Coarse(random_.Floats(kMaxGemvTokens * kInputs));
  const auto device_weights = ToDevice(Rounded(weights)), device_x = ToDevice(Rounded(x));
  std::vector<float> alone;
  for (const bool add : {false, true}) {
    for (int32_t tokens = 0; tokens <= kMaxGemvTokens; ++tokens) {
      const auto y = ToDevice(std::vector<float>(kMaxGemvTokens * kStride, 3));
      ASSERT_EQ(RunGemv(device_weights.data(), kOutputs, kInputs, device_x.data(), tokens, add,
                        y.data(), kStride, nullptr),
                cudaSuccess);
      std::vector<float> right(kMaxGemvTokens * kStride, 3);
      for (int64_t token = 0; token < tokens; ++token) {
        for (int64_t n = 0; n < kOutputs; ++n) {
          double sum = add ? 3 : 0;
          for (int64_t k = 0; k < kInputs; ++k) {
            sum += double{weights[n * kInputs + k]} * x[token * kInputs + k];
          }
          right[token * kStride + n] = static_cast<float>(sum);
        }
      }
      const std::vector<float> got = FromDevice(y);
      EXPECT_THAT(got, Pointwise(FloatNear(1e-3f), right));
      if (tokens == 1) alone.assign(got.begin(), got.begin() + kStride);
      if (tokens > 1) {
        EXPECT_EQ(std::vector<float>(got.begin(), got.begin() + kStride), alone);
      }
    }
  }
  EXPECT_EQ(RunGemv(device_weights.data(), 1, 8, device_x.data(), kMaxGemvTokens + 1, false,
                    nullptr, 1, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(RunGemv(device_weights.data(), 1, 7, device_x.data(), 1, false, nullptr, 1, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace gma::cuda
