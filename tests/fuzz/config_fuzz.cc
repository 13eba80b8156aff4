// Any bytes as config.json; what is accepted must be usable: its tensors can be named, its state
// row laid out, and its canonical form is the text of the same config.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/checkpoint/fingerprint.h"
#include "model/checkpoint/model_dir.h"
#include "model/config/model_config.h"
#include "model/state/state_layout.h"

namespace {

void CheckUsable(const gma::ModelConfig& config) {
  GMA_CHECK(config.layers.size() == static_cast<size_t>(config.num_layers));
  GMA_CHECK(config.num_attention_heads % config.num_memory_heads == 0);
  GMA_CHECK(config.head_dim % 2 == 0);
  GMA_CHECK(config.rms_norm_eps > 0 && config.rope_theta > 0);
  GMA_CHECK(config.bos_token_id >= -1 && config.bos_token_id < config.vocab_size);
  for (int32_t token : config.eos_token_ids) GMA_CHECK(token >= 0 && token < config.vocab_size);
  for (const auto& [name, shape] : gma::ExpectedTensors(config)) {
    GMA_CHECK(!name.empty());
    for (int64_t size : shape) GMA_CHECK(size > 0 && size <= INT32_MAX);
  }
  GMA_CHECK(!gma::CanonicalConfig(config).empty());
  for (bool compensated : {false, true}) {
    const auto layout = gma::StateLayout::Create(config, compensated);
    if (!layout.ok()) continue;
    GMA_CHECK(layout->layers().size() == config.layers.size());
    GMA_CHECK(layout->row_bytes() % 64 == 0 && layout->row_bytes() > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = gma::ParseModelConfig(text);
  if (config.ok()) {
    CheckUsable(*config);
  } else {
    // Messages are for a person: short, one line, printable.
    const std::string message(config.status().message());
    GMA_CHECK(!message.empty() && message.size() < 1000);
    for (char c : message) GMA_CHECK(c >= ' ' && c <= '~');
  }
  return 0;
}
