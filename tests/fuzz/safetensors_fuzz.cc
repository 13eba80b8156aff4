// Any bytes as a safetensors file. What is accepted covers its data exactly, every byte of it can
// be read, and one view after the other holds what its shape says.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tensors = gma::ParseSafetensors({data, size});
  if (!tensors.ok()) {
    GMA_CHECK(!tensors.status().message().empty());
    for (char c : tensors.status().message()) GMA_CHECK(c != '\n');
    return 0;
  }
  size_t covered = 0;
  for (const auto& [name, view] : *tensors) {
    GMA_CHECK(!name.empty() && name.size() <= gma::kMaxTensorNameBytes);
    GMA_CHECK(view.shape.size() <= gma::kMaxTensorDimensions);
    GMA_CHECK(gma::TensorBytes(view.type, view.shape) == view.data.size());
    GMA_CHECK(view.data.data() >= data && view.data.data() + view.data.size() <= data + size);
    volatile uint8_t sum = 0;
    for (uint8_t byte : view.data) sum = static_cast<uint8_t>(sum + byte);
    covered += view.data.size();
  }
  GMA_CHECK(covered <= size - gma::kSafetensorsLengthBytes);
  return 0;
}
