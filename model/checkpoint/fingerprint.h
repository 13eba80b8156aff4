// What names a model: a digest over its config and its weights.
#ifndef GMA_MODEL_CHECKPOINT_FINGERPRINT_H_
#define GMA_MODEL_CHECKPOINT_FINGERPRINT_H_

#include <map>
#include <string>

#include "model/checkpoint/safetensors.h"
#include "model/config/model_config.h"

namespace gma {

// The config as JSON with sorted keys, every option spelled out for every layer: two files that
// mean the same give the same text.
std::string CanonicalConfig(const ModelConfig& config);

// SHA-256, as 64 lower-case hex digits, over CanonicalConfig and, in the order of names, each
// tensor's name, type, shape and bytes. Every variable-length part is preceded by its length, so
// no two models give the same stream.
std::string ModelFingerprint(const ModelConfig& config,
                             const std::map<std::string, TensorView, std::less<>>& tensors);

}  // namespace gma

#endif  // GMA_MODEL_CHECKPOINT_FINGERPRINT_H_
