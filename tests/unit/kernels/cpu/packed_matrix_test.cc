#include "model/kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace gma {
namespace {

using cpu::PackedMatrix;
using cpu::WeightFormat;

struct Matrix {
  int64_t rows, cols;
  HugeArena arena;
  std::vector<float> numbers;

  Matrix(int64_t row_count, int64_t col_count) : rows(row_count), cols(col_count) {
    std::mt19937 engine(5);
    std::normal_distribution<float> normal(0.01f, 0.3f);
    numbers.resize(static_cast<size_t>(rows * cols));
    for (float& x : numbers) x = normal(engine);
  }
  float* row(int64_t r) { return numbers.data() + r * cols; }

  PackedMatrix Pack(WeightFormat format) {
    PackedMatrix packed(format, rows, cols, arena);
    packed.PackPanels([this](int64_t r, float* out) { std::copy_n(row(r), cols, out); }, 0,
                      packed.panels());
    return packed;
  }
};

// The largest error of a row's weights after packing.
double RowError(Matrix& matrix, const PackedMatrix& packed, int64_t row) {
  std::vector<float> out(static_cast<size_t>(matrix.cols));
  packed.UnpackRow(row, out.data());
  double error = 0;
  for (int64_t k = 0; k < matrix.cols; ++k) {
    error = std::max(error, std::fabs(double{out[static_cast<size_t>(k)]} - matrix.row(row)[k]));
  }
  return error;
}

class PackedMatrixTest : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {
 protected:
  Matrix matrix_{GetParam().first, GetParam().second};
};

TEST_P(PackedMatrixTest, Float32IsExact) {
  const PackedMatrix packed = matrix_.Pack(WeightFormat::kFloat32);
  for (int64_t r = 0; r < matrix_.rows; ++r) EXPECT_EQ(RowError(matrix_, packed, r), 0);
}

TEST_P(PackedMatrixTest, BFloat16RoundsToNearest) {
  const PackedMatrix packed = matrix_.Pack(WeightFormat::kBFloat16);
  std::vector<float> out(static_cast<size_t>(matrix_.cols));
  for (int64_t r = 0; r < matrix_.rows; ++r) {
    packed.UnpackRow(r, out.data());
    for (int64_t k = 0; k < matrix_.cols; ++k) {
      const float exact = matrix_.row(r)[k];
      EXPECT_LE(std::fabs(out[static_cast<size_t>(k)] - exact), std::fabs(exact) / 256);
    }
  }
}

TEST_P(PackedMatrixTest, Int8IsWithinHalfAStepOfTheRow) {
  const PackedMatrix packed = matrix_.Pack(WeightFormat::kInt8);
  for (int64_t r = 0; r < matrix_.rows; ++r) {
    float largest = 0;
    for (int64_t k = 0; k < matrix_.cols; ++k) {
      largest = std::max(largest, std::fabs(matrix_.row(r)[k]));
    }
    EXPECT_LE(RowError(matrix_, packed, r), largest / 127 / 2 * 1.0001);
  }
}

TEST_P(PackedMatrixTest, Int4IsWithinHalfAStepOfTheGroup) {
  const PackedMatrix packed = matrix_.Pack(WeightFormat::kInt4);
  for (int64_t r = 0; r < matrix_.rows; ++r) {
    const auto [low, high] = std::minmax_element(matrix_.row(r), matrix_.row(r) + matrix_.cols);
    // Half a step of the widest group that there could be, and the rounding of its two numbers.
    EXPECT_LE(RowError(matrix_, packed, r),
              (*high - *low) / 15 / 2 + (std::fabs(*low) + *high - *low) / 1024);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedMatrixTest,
                         ::testing::Values(std::pair{1, 1}, std::pair{31, 7}, std::pair{32, 32},
                                           std::pair{70, 100}));

// What llama.cpp calls Q4_1: sixteen levels above a float16 minimum. Such weights lose nothing.
TEST(PackedMatrix, Int4KeepsGroupsOfSixteenLevelsExactly) {
  Matrix matrix(40, 96);
  std::mt19937 engine(9);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t group = 0; group < 3; ++group) {
      const float step = static_cast<float>(1 + engine() % 1000) / 16384;  // float16 holds both
      const float base = -static_cast<float>(engine() % 1000) / 1024;
      for (int64_t k = 0; k < 32; ++k) {
        const uint32_t level = k < 2 ? 15 * static_cast<uint32_t>(k) : engine() % 16;
        matrix.row(r)[32 * group + k] = base + step * static_cast<float>(level);
      }
    }
  }
  const PackedMatrix packed = matrix.Pack(WeightFormat::kInt4);
  for (int64_t r = 0; r < matrix.rows; ++r) EXPECT_EQ(RowError(matrix, packed, r), 0);
}

TEST(PackedMatrix, TakesTheBytesThatTheLayoutSays) {
  HugeArena arena;
  EXPECT_EQ(PackedMatrix(WeightFormat::kFloat32, 33, 10, arena).bytes(), 2u * 10 * 32 * 4);
  EXPECT_EQ(PackedMatrix(WeightFormat::kBFloat16, 33, 10, arena).bytes(), 2u * 10 * 32 * 2);
  EXPECT_EQ(PackedMatrix(WeightFormat::kInt8, 33, 10, arena).bytes(), 2u * (10 * 32 + 128));
  EXPECT_EQ(PackedMatrix(WeightFormat::kInt4, 33, 33, arena).bytes(), 2u * 2 * (32 * 16 + 128));
}

TEST(PackedMatrix, ExtremeNumbersStayFinite) {
  for (const WeightFormat format :
       {WeightFormat::kBFloat16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    Matrix matrix(2, 32);
    std::fill(matrix.row(0), matrix.row(0) + 32, 0.0f);
    for (int64_t k = 0; k < 32; ++k) matrix.row(1)[k] = k % 2 == 0 ? 6e4f : -6e4f;
    const PackedMatrix packed = matrix.Pack(format);
    EXPECT_EQ(RowError(matrix, packed, 0), 0);
    EXPECT_LT(RowError(matrix, packed, 1), 300);
  }
}

}  // namespace
}  // namespace gma
