// Every row of the limits table at its edges: limit - 1, limit, limit + 1 of both ends, through the
// conversion of whole requests. A row without a case here fails the test.
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "server/options/limits.h"
#include "server/rpc/convert.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/rpc/convert_fixture.h"

namespace gma {
namespace {

using ::gma::testing::ConvertModel;
using ::gma::testing::IsOk;
using ::gma::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Converts a request whose field has the value (or length, or number of entries).
using Convert = std::function<absl::Status(const ServedModel&, double)>;

v1::GenerateRequest TextRequest() {
  v1::GenerateRequest request;
  request.mutable_input()->set_text("hello");
  return request;
}

absl::Status Check(const ServedModel& model, const v1::GenerateRequest& request) {
  return ConvertGenerate(request, model, 1).status();
}

// A case that sets one field of a GenerateRequest.
Convert Field(std::function<void(v1::GenerateRequest&, double)> set) {
  return [set](const ServedModel& model, double value) {
    v1::GenerateRequest request = TextRequest();
    set(request, value);
    return Check(model, request);
  };
}

Convert Sampling(void (v1::SamplingParams::*set)(double)) {
  return Field([set](auto& request, double v) { (request.mutable_sampling()->*set)(v); });
}

std::string Bytes(double count) { return std::string(static_cast<size_t>(count), 'x'); }
// Lengths below zero cannot be had; they are left out.
bool Exists(const Limit& limit, double value) {
  static const std::map<std::string_view, int> kCounted = {
      {"entries", 0}, {"bytes", 0}, {"tokens", 0}, {"events", 0}};
  const bool is_number = limit.field == "sampling.top_k" || limit.field == "stop.max_tokens" ||
                         limit.field == "stop.min_tokens" || limit.field == "credit.tokens" ||
                         limit.field == "sampling.top_logprobs" ||
                         limit.field == "open.initial_credit";
  return value >= 0 || is_number || kCounted.count(limit.unit) == 0;
}

std::map<std::string_view, Convert> SamplingCases() {
  using P = v1::SamplingParams;
  return {
      {"sampling.temperature", Sampling(&P::set_temperature)},
      {"sampling.top_p", Sampling(&P::set_top_p)},
      {"sampling.min_p", Sampling(&P::set_min_p)},
      {"sampling.typical_p", Sampling(&P::set_typical_p)},
      {"sampling.repetition_penalty", Sampling(&P::set_repetition_penalty)},
      {"sampling.presence_penalty", Sampling(&P::set_presence_penalty)},
      {"sampling.frequency_penalty", Sampling(&P::set_frequency_penalty)},
      {"sampling.top_k", Field([](auto& r, double v) { r.mutable_sampling()->set_top_k(v); })},
      {"sampling.top_logprobs",
       Field([](auto& r, double v) { r.mutable_sampling()->set_top_logprobs(v); })},
      {"sampling.logit_bias", Field([](auto& r, double v) {
         for (int i = 0; i < v; ++i) r.mutable_sampling()->add_logit_bias()->set_token(i % 256);
       })},
      {"sampling.logit_bias.bias", Field([](auto& r, double v) {
         r.mutable_sampling()->add_logit_bias()->set_bias(static_cast<float>(v));
       })},
      {"sampling.banned_tokens", Field([](auto& r, double v) {
         for (int i = 0; i < v; ++i) r.mutable_sampling()->add_banned_tokens(i % 256);
       })},
      {"sampling.allowed_tokens", Field([](auto& r, double v) {
         for (int i = 0; i < v; ++i) r.mutable_sampling()->add_allowed_tokens(i % 256);
       })},
  };
}

std::map<std::string_view, Convert> StopCases() {
  return {
      {"stop.max_tokens", Field([](auto& r, double v) { r.mutable_stop()->set_max_tokens(v); })},
      {"stop.min_tokens", Field([](auto& r, double v) {
         r.mutable_stop()->set_max_tokens(1048576);
         r.mutable_stop()->set_min_tokens(v);
       })},
      {"stop.stop_tokens", Field([](auto& r, double v) {
         for (int i = 0; i < v; ++i) r.mutable_stop()->add_stop_tokens(i);
       })},
      {"stop.stop_strings", Field([](auto& r, double v) {
         for (int i = 0; i < v; ++i) r.mutable_stop()->add_stop_strings("stop");
       })},
      {"stop.stop_strings[]",
       Field([](auto& r, double v) { r.mutable_stop()->add_stop_strings(Bytes(v)); })},
  };
}

std::map<std::string_view, Convert> InputCases() {
  return {
      {"input.text", Field([](auto& r, double v) { r.mutable_input()->set_text(Bytes(v)); })},
      {"input.tokens", Field([](auto& r, double v) {
         auto& ids = *r.mutable_input()->mutable_tokens()->mutable_ids();
         ids.Resize(static_cast<int>(v), 7);
       })},
      {"input.chat.messages", Field([](auto& r, double v) {
         r.mutable_input()->mutable_chat();
         for (int i = 0; i < v; ++i)
           r.mutable_input()->mutable_chat()->add_messages()->set_role("user");
       })},
      {"input.chat.messages.content", Field([](auto& r, double v) {
         for (const double part : {std::floor(v / 2), std::ceil(v / 2)}) {
           auto& message = *r.mutable_input()->mutable_chat()->add_messages();
           message.set_role("user");
           message.set_content(Bytes(part));
         }
       })},
  };
}

std::map<std::string_view, Convert> OtherCases() {
  return {
      {"n", Field([](auto& r, double v) { r.set_n(v); })},
      {"priority", Field([](auto& r, double v) { r.set_priority(v); })},
      {"request_key", Field([](auto& r, double v) {
         r.set_session_id(std::string(32, 'a'));
         r.set_request_key(Bytes(v));
       })},
      {"after", Field([](auto& r, double v) {
         r.set_session_id(std::string(32, 'a'));
         r.set_after(static_cast<uint64_t>(v));
       })},
      {"ttl_seconds",
       [](const ServedModel&, double v) { return ConvertTtl(static_cast<int64_t>(v)).status(); }},
      {"open.initial_credit",
       [](const ServedModel& model, double v) {
         v1::SessionOpen open;
         open.set_initial_credit(v);
         return ConvertOpen(open, model).status();
       }},
      {"rewind.checkpoint",
       [](const ServedModel&, double v) {
         v1::RewindRequest request;
         request.set_session_id(std::string(32, 'a'));
         request.set_checkpoint(Bytes(v));
         return ConvertRewind(request).status();
       }},
      {"rewind.context_tokens",
       [](const ServedModel&, double v) {
         v1::RewindRequest request;
         request.set_session_id(std::string(32, 'a'));
         request.set_context_tokens(static_cast<int64_t>(v));
         return ConvertRewind(request).status();
       }},
      {"detokenize.ids",
       [](const ServedModel& model, double v) {
         v1::DetokenizeRequest request;
         request.mutable_ids()->Resize(static_cast<int>(v), 7);
         return CheckDetokenize(request, model);
       }},
  };
}

// Rows whose values are checked by other tests: names must also exist, and roles be known; the
// others never reach a conversion.
const std::map<std::string_view, const char*> kElsewhere = {
    {"model", "ConvertTest.ModelNames"},
    {"session_id", "ConvertTest.SessionIds"},
    {"input.chat.messages.role", "ConvertTest.ChatRoles"},
    {"credit.tokens", "session_test"},
    {"page_size", "session_test"},
    {"checkpoint.name", "past_test"},
    {"import.data", "past_test"},
    {"tokenize.text", "generation_test"},
};

TEST(ConvertLimitsTest, EveryLimitHoldsAtBothEnds) {
  const ConvertModel fixture;
  std::map<std::string_view, Convert> cases;
  for (auto part : {SamplingCases(), StopCases(), InputCases(), OtherCases()}) cases.merge(part);
  for (const Limit& limit : AllLimits()) {
    if (kElsewhere.count(limit.field) > 0) continue;
    ASSERT_EQ(cases.count(limit.field), 1u) << limit.field << " has no case";
    const Convert& convert = cases.at(limit.field);
    const bool whole = limit.max == std::floor(limit.max) && limit.min == std::floor(limit.min) &&
                       !limit.unit.empty();
    const double step = whole || limit.field == "n" || limit.field == "priority" ? 1 : 1e-3;
    for (const double inside : {limit.min, limit.min + step, limit.max - step, limit.max}) {
      EXPECT_THAT(convert(fixture.model, inside), IsOk()) << limit.field << " = " << inside;
    }
    for (const double outside : {limit.min - step, limit.max + step}) {
      if (!Exists(limit, outside) || outside > std::numeric_limits<int32_t>::max()) continue;
      EXPECT_THAT(convert(fixture.model, outside),
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           AllOf(HasSubstr(std::string(limit.field)), HasSubstr("must be in ["))))
          << limit.field << " = " << outside;
    }
  }
}

// The NaN row: every floating-point field is fed what comparisons and casts get wrong.
TEST(ConvertLimitsTest, NoFloatFieldTakesWhatIsNoNumber) {
  const ConvertModel fixture;
  const std::map<std::string_view, Convert> cases = SamplingCases();
  for (const std::string_view field :
       {"sampling.temperature", "sampling.top_p", "sampling.min_p", "sampling.typical_p",
        "sampling.repetition_penalty", "sampling.presence_penalty", "sampling.frequency_penalty",
        "sampling.logit_bias.bias"}) {
    for (const double value : {std::nan(""), double{INFINITY}, -double{INFINITY}, 1e300, -1e300,
                               double{std::numeric_limits<float>::max()}}) {
      EXPECT_THAT(cases.at(field)(fixture.model, value),
                  StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(field))))
          << field << " = " << value;
    }
  }
  // These are numbers, and zero or next to it.
  for (const double value : {-0.0, 5e-324}) {
    EXPECT_THAT(cases.at("sampling.temperature")(fixture.model, value), IsOk());
    EXPECT_THAT(cases.at("sampling.presence_penalty")(fixture.model, value), IsOk());
  }
}

}  // namespace
}  // namespace gma
