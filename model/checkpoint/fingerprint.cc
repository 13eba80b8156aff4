#include "model/checkpoint/fingerprint.h"

#include <openssl/evp.h>

#include <cstdint>
#include <string_view>

#include "absl/strings/escaping.h"
#include "base/check.h"
#include "nlohmann/json.hpp"

namespace gma {
namespace {

// An OpenSSL digest. Its calls fail only without memory or without the algorithm: both end us.
class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    GMA_CHECK(context_ != nullptr);
    GMA_CHECK(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
  }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void AddBytes(const void* data, size_t size) {
    GMA_CHECK(EVP_DigestUpdate(context_, data, size) == 1);
  }
  void AddNumber(uint64_t number) {
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = static_cast<uint8_t>(number >> (8 * i));
    AddBytes(bytes, sizeof(bytes));
  }
  void AddText(std::string_view text) {
    AddNumber(text.size());
    AddBytes(text.data(), text.size());
  }
  std::string FinishHex() {
    char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    GMA_CHECK(EVP_DigestFinal_ex(context_, reinterpret_cast<unsigned char*>(digest), &size) == 1);
    return absl::BytesToHexString(absl::string_view(digest, size));
  }

 private:
  EVP_MD_CTX* const context_;
};

const char* Name(ReadMode read) { return read == ReadMode::kStatic ? "static" : "adapted"; }

const char* Name(ForgetMode forget) {
  switch (forget) {
    case ForgetMode::kNone:
      return "none";
    case ForgetMode::kHead:
      return "head";
    case ForgetMode::kWrite:
      return "write";
  }
  CheckFailed(__FILE__, __LINE__, "unknown ForgetMode");
}

const char* Name(VarParam param) { return param == VarParam::kBounded ? "bounded" : "softplus"; }

const char* Name(WeightType type) { return type == WeightType::kFloat32 ? "float32" : "bfloat16"; }

nlohmann::json CanonicalOptions(const MixerOptions& options) {
  nlohmann::json json = {{"window", options.window},
                         {"short_conv", options.short_conv},
                         {"read", Name(options.read)},
                         {"forget", Name(options.forget)},
                         {"var_param", Name(options.var_param)},
                         {"route_norm", options.route_norm},
                         {"out_norm", options.out_norm},
                         {"out_gate", options.out_gate}};
  // Only where it is on, so that a model of before keeps its fingerprint.
  if (options.route == RouteMode::kKey) json["route"] = "key";
  return json;
}

}  // namespace

std::string CanonicalConfig(const ModelConfig& config) {
  nlohmann::json json = {{"vocab_size", config.vocab_size},
                         {"hidden_size", config.hidden_size},
                         {"num_hidden_layers", config.num_layers},
                         {"num_attention_heads", config.num_attention_heads},
                         {"num_memory_heads", config.num_memory_heads},
                         {"head_dim", config.head_dim},
                         {"num_components", config.num_components},
                         {"routing_dim", config.routing_dim},
                         {"intermediate_size", config.intermediate_size},
                         {"rms_norm_eps", config.rms_norm_eps},
                         {"rope_theta", config.rope_theta},
                         {"tie_word_embeddings", config.tie_word_embeddings},
                         {"bos_token_id", config.bos_token_id},
                         {"eos_token_id", config.eos_token_ids},
                         {"torch_dtype", Name(config.torch_dtype)},
                         {"layers", nlohmann::json::array()}};
  // Only where it is on, so that a model of before keeps its fingerprint.
  if (config.slot_horizon > 0) json["slot_horizon"] = config.slot_horizon;
  for (const MixerOptions& options : config.layers) {
    json["layers"].push_back(CanonicalOptions(options));
  }
  return json.dump();
}

std::string ModelFingerprint(const ModelConfig& config,
                             const std::map<std::string, TensorView, std::less<>>& tensors) {
  Sha256 digest;
  digest.AddText(CanonicalConfig(config));
  digest.AddNumber(tensors.size());
  for (const auto& [name, view] : tensors) {
    digest.AddText(name);
    digest.AddText(TensorTypeName(view.type));
    digest.AddNumber(view.shape.size());
    for (int64_t size : view.shape) digest.AddNumber(static_cast<uint64_t>(size));
    digest.AddNumber(view.data.size());
    digest.AddBytes(view.data.data(), view.data.size());
  }
  return digest.FinishHex();
}

}  // namespace gma
