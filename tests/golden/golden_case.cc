#include "tests/golden/golden_case.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace gma::testing {
namespace {

std::string GoldenFolder() { return std::string(GMA_SOURCE_DIR) + "/tests/golden/"; }

// Largest difference, relative to the largest expected number (1 if all are 0).
double RelativeError(const std::vector<double>& actual, absl::Span<const double> expected) {
  GMA_CHECK(actual.size() == expected.size());
  double largest = 0, difference = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i])) return INFINITY;
    largest = std::max(largest, std::fabs(expected[i]));
    difference = std::max(difference, std::fabs(actual[i] - expected[i]));
  }
  return difference / (largest == 0 ? 1 : largest);
}

// A ring of `entries` entries of `width` numbers, oldest first, after `tokens` tokens.
std::vector<double> Unroll(const uint8_t* row, size_t offset, int64_t entries, int64_t width,
                           int64_t tokens) {
  const float* ring = reinterpret_cast<const float*>(row + offset);
  std::vector<double> numbers;
  for (int64_t token = tokens - entries; token < tokens; ++token) {
    const float* entry = ring + (token % entries) * width;
    numbers.insert(numbers.end(), entry, entry + width);
  }
  return numbers;
}

template <typename T>
std::vector<double> Numbers(const uint8_t* row, size_t offset, size_t count) {
  const T* data = reinterpret_cast<const T*>(row + offset);
  return std::vector<double>(data, data + count);
}

}  // namespace

std::vector<std::string> GoldenCaseNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenFolder())) {
    if (std::filesystem::exists(entry.path() / "expected.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<GoldenCase> GoldenCase::Open(const std::string& name) {
  const std::string folder = GoldenFolder() + name;
  GMA_ASSIGN_OR_RETURN(ModelDir model, ModelDir::Open(folder, {}));
  GMA_ASSIGN_OR_RETURN(SafetensorsFile expected,
                       SafetensorsFile::Open(folder + "/expected.safetensors"));
  const absl::Span<const int64_t> tokens = expected.tensors().at("tokens").As<int64_t>();
  const absl::Span<const int64_t> positions = expected.tensors().at("positions").As<int64_t>();
  return GoldenCase{.model = std::move(model),
                    .expected = std::move(expected),
                    .tokens = {tokens.begin(), tokens.end()},
                    .positions = {positions.begin(), positions.end()}};
}

double GoldenCase::LogitError(size_t index, absl::Span<const float> logits) const {
  const absl::Span<const double> all = expected.tensors().at("logits").As<double>();
  return RelativeError({logits.begin(), logits.end()},
                       all.subspan(index * logits.size(), logits.size()));
}

double GoldenCase::StateError(absl::Span<const uint8_t> row, const StateLayout& layout,
                              std::string& worst_block) const {
  const ModelConfig& config = model.config();
  const int64_t G = config.num_memory_heads, K = config.num_components;
  const int64_t r = config.routing_dim, v = config.head_dim;
  const int64_t count = static_cast<int64_t>(tokens.size());
  double worst = 0;
  size_t blocks = 0;
  const auto compare = [&](int32_t n, const char* block, const std::vector<double>& actual) {
    const std::string name = absl::StrCat("state.", n, ".", block);
    const double error = RelativeError(actual, expected.tensors().at(name).As<double>());
    if (error >= worst) worst_block = name;
    worst = std::max(worst, error);
    ++blocks;
  };
  for (int32_t n = 0; n < config.num_layers; ++n) {
    const LayerLayout& at = layout.layers()[n];
    const int64_t w = config.layers[n].window, history = config.layers[n].short_conv - 1;
    const auto ring = [&](const char* block, size_t offset, int64_t entries, int64_t width) {
      if (offset == LayerLayout::kAbsent) return;
      compare(n, block, Unroll(row.data(), offset, entries, width, count));
    };
    compare(n, "mass", Numbers<double>(row.data(), at.mass, G * K));
    if (at.slot_position != LayerLayout::kAbsent) {
      compare(n, "slot_position", Numbers<double>(row.data(), at.slot_position, G * K));
    }
    compare(n, "memory", Numbers<float>(row.data(), at.memory, G * K * at.memory_dim));
    ring("conv", at.conv, history, at.conv_channels);
    ring("window_key", at.window_key, w, G * v);
    ring("window_value", at.window_value, w, G * v);
    ring("window_route", at.window_route, w, G * r);
    ring("window_log_decay", at.window_log_decay, w, G);
  }
  // Tokens, positions and logits beside the blocks: nothing expected went uncompared.
  GMA_CHECK(blocks + 3 == expected.tensors().size());
  return worst;
}

}  // namespace gma::testing
