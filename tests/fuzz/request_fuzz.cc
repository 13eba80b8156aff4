// Any bytes as a request: parsed as gRPC parses them, then converted for a small model. The first
// byte picks the message. Whatever is accepted is inside the limits.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "base/check.h"
#include "google/protobuf/stubs/logging.h"
#include "server/rpc/convert.h"
#include "tests/unit/rpc/convert_fixture.h"

namespace gma {
namespace {

constexpr size_t kMaxTokens = (size_t{1} << 20) + 64 * 1024;  // a full input and its chat frames

void CheckTokens(const InputTokens& input) {
  GMA_CHECK(input.tokens.size() <= kMaxTokens);
  for (const int32_t token : input.tokens) GMA_CHECK(token >= 0 && token < testing::kVocab);
}

void CheckGenerate(absl::StatusOr<GenerateSpec> converted) {
  if (!converted.ok()) {
    GMA_CHECK(!converted.status().message().empty());
    return;
  }
  const GenerateSpec& spec = *converted;
  GMA_CHECK(spec.n >= 1 && spec.n <= 16 && !(spec.n > 1 && spec.session.has_value()));
  GMA_CHECK(spec.request_key.size() <= 64 && spec.after.value_or(0) >= 0);
  GMA_CHECK(spec.stop.max_tokens >= 1 && spec.stop.min_tokens <= spec.stop.max_tokens);
  GMA_CHECK(spec.sampling.temperature >= 0 && spec.sampling.temperature <= 100);
  GMA_CHECK(spec.sampling.top_p > 0 && spec.sampling.top_p <= 1);
  for (const auto& [token, bias] : spec.sampling.logit_bias) {
    GMA_CHECK(token >= 0 && token < testing::kVocab && bias >= -100 && bias <= 100);
  }
  CheckTokens(converted->input);
}

template <typename Message>
bool Parse(std::string_view bytes, Message& message) {
  return message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

void FuzzSession(std::string_view bytes, const ServedModel& model) {
  v1::SessionRequest request;
  if (!Parse(bytes, request)) return;
  CheckGenerate(ConvertSessionGenerate(request.generate(), model, 1));
  if (auto append = ConvertSessionAppend(request.append(), model); append.ok()) {
    CheckTokens(append->input);
    GMA_CHECK(append->request_key.size() <= 64 && append->after.value_or(0) >= 0);
  }
  if (const auto open = ConvertOpen(request.open(), model); open.ok()) {
    GMA_CHECK(open->initial_credit >= 1 && open->initial_credit <= kMaxCredit);
    GMA_CHECK(open->ttl >= absl::ZeroDuration() && open->ttl <= absl::Hours(168));
    GMA_CHECK(!open->resume_after || (open->session && *open->resume_after >= 0));
  }
}

void FuzzOther(std::string_view bytes, const ServedModel& model) {
  v1::AppendRequest append;
  if (Parse(bytes, append)) {
    if (auto converted = ConvertAppend(append, model); converted.ok()) {
      CheckTokens(converted->input);
      GMA_CHECK(converted->request_key.size() <= 64 && converted->after.value_or(0) >= 0);
    }
  }
  v1::ResumeRequest resume;
  if (Parse(bytes, resume)) {
    if (const auto spec = ConvertResume(resume); spec.ok()) GMA_CHECK(spec->after >= 0);
  }
  v1::RewindRequest rewind;
  if (Parse(bytes, rewind)) {
    if (const auto spec = ConvertRewind(rewind); spec.ok()) {
      const auto* tokens = std::get_if<int64_t>(&spec->target);
      GMA_CHECK(tokens == nullptr || *tokens >= 0);
      GMA_CHECK(spec->after.value_or(0) >= 0);
      const auto* name = std::get_if<std::string>(&spec->target);
      GMA_CHECK(name == nullptr || (!name->empty() && name->size() <= 64));
    }
  }
  v1::DetokenizeRequest detokenize;
  if (Parse(bytes, detokenize) && CheckDetokenize(detokenize, model).ok()) {
    // Ids are the tokenizer's to check.
    (void)model.tokenizer->Decode(detokenize.ids(), /*skip_special=*/false).ok();
  }
  (void)ParseGenerationDefaults(bytes, testing::kVocab).ok();
}

}  // namespace
}  // namespace gma

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const gma::testing::ConvertModel fixture;
  static const auto quiet = google::protobuf::SetLogHandler(nullptr);
  (void)quiet;
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    gma::v1::GenerateRequest request;
    if (gma::Parse(bytes, request)) {
      gma::CheckGenerate(gma::ConvertGenerate(request, fixture.model, 1));
    }
  } else if (data[0] % 3 == 1) {
    gma::FuzzSession(bytes, fixture.model);
  } else {
    gma::FuzzOther(bytes, fixture.model);
  }
  return 0;
}
