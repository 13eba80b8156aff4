// Images of safetensors files, right and wrong, for tests.
#ifndef GMA_TESTS_SUPPORT_SAFETENSORS_BYTES_H_
#define GMA_TESTS_SUPPORT_SAFETENSORS_BYTES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "model/checkpoint/safetensors.h"

namespace gma::testing {

// A file with `header` (padded with spaces to a multiple of 8) and `data_bytes` bytes 0, 1, 2, ...
inline std::string SafetensorsImage(std::string header, size_t data_bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string image;
  for (size_t i = 0; i < 8; ++i) image.push_back(static_cast<char>(header.size() >> (8 * i)));
  image += header;
  for (size_t i = 0; i < data_bytes; ++i) image.push_back(static_cast<char>(i));
  return image;
}

inline absl::Span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A float32 tensor over `values`, which it borrows.
inline TensorView FloatView(const std::vector<float>& values, std::vector<int64_t> shape) {
  return {TensorType::kFloat32,
          std::move(shape),
          {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)}};
}

}  // namespace gma::testing

#endif  // GMA_TESTS_SUPPORT_SAFETENSORS_BYTES_H_
