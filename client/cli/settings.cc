#include "client/cli/settings.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace gma::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr SettingInfo kSettings[] = {
    {"temperature", "0 always takes the most probable token; larger is more varied"},
    {"top_k", "draw among so many tokens; 0 is off"},
    {"top_p", "draw among the likeliest tokens of this much probability; 1 is off"},
    {"min_p", "leave out tokens below this share of the likeliest one; 0 is off"},
    {"typical_p", "draw among the most typical tokens of this much probability; 1 is off"},
    {"repetition_penalty", "above 1 repeats less; 1 is off"},
    {"presence_penalty", "above 0 prefers tokens that were not there yet; 0 is off"},
    {"frequency_penalty", "above 0 avoids tokens the more, the more often they came; 0 is off"},
    {"seed", "the same seed draws the same answer; default is a new one each time"},
    {"max_tokens", "longest answer, in tokens"},
    {"min_tokens", "shortest answer, in tokens"},
};

absl::Status Refuse(std::string_view name, std::string_view value, const char* rule) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(name), " is \"", std::string(value), "\", must be ", rule));
}

// Sets a number of any type that the settings have.
absl::Status SetNumber(Message& message, const FieldDescriptor& field, std::string_view text) {
  const absl::string_view value(text.data(), text.size());
  const Reflection& reflection = *message.GetReflection();
  int32_t small = 0;
  int64_t large = 0;
  uint64_t positive = 0;
  double real = 0;
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    if (!absl::SimpleAtod(value, &real) || !std::isfinite(real)) {
      return Refuse(field.name(), text, "a number");
    }
    reflection.SetDouble(&message, &field, real);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
    if (!absl::SimpleAtoi(value, &small)) {
      return Refuse(field.name(), text, "an integer in [-2^31, 2^31)");
    }
    reflection.SetInt32(&message, &field, small);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    if (!absl::SimpleAtoi(value, &large)) {
      return Refuse(field.name(), text, "an integer in [-2^63, 2^63)");
    }
    reflection.SetInt64(&message, &field, large);
  } else {
    GMA_CHECK(field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64);
    if (!absl::SimpleAtoi(value, &positive)) {
      return Refuse(field.name(), text, "an integer in [0, 2^64)");
    }
    reflection.SetUInt64(&message, &field, positive);
  }
  return absl::OkStatus();
}

std::string ValueOf(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  if (!reflection.HasField(message, &field)) return "default";
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrFormat("%g", reflection.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(message, &field));
    default:
      return absl::StrCat(reflection.GetUInt64(message, &field));
  }
}

// The field of a setting, in whichever message has it.
const FieldDescriptor& FieldOf(const char* name) {
  const FieldDescriptor* field = v1::SamplingParams::descriptor()->FindFieldByName(name);
  if (field == nullptr) field = v1::StopParams::descriptor()->FindFieldByName(name);
  GMA_CHECK(field != nullptr);
  return *field;
}

}  // namespace

Settings::Settings() {
  sampling_.set_temperature(0.2);
  sampling_.set_top_p(0.9);
  sampling_.set_repetition_penalty(1.05);
  stop_.set_max_tokens(1024);
}

absl::Span<const SettingInfo> Settings::All() { return kSettings; }

absl::Status Settings::Set(std::string_view name, std::string_view value) {
  for (const SettingInfo& setting : kSettings) {
    if (name != setting.name) continue;
    const FieldDescriptor& field = FieldOf(setting.name);
    Message* message = &sampling_;
    if (field.containing_type() != v1::SamplingParams::descriptor()) message = &stop_;
    if (value != "default") return SetNumber(*message, field, value);
    message->GetReflection()->ClearField(message, &field);
    return absl::OkStatus();
  }
  std::string known;
  for (const SettingInfo& setting : kSettings) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", setting.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no setting \"", std::string(name), "\"; there are: ", known));
}

std::string Settings::Describe() const {
  std::string text;
  for (const SettingInfo& setting : kSettings) {
    const FieldDescriptor& field = FieldOf(setting.name);
    const Message* message = &sampling_;
    if (field.containing_type() != v1::SamplingParams::descriptor()) message = &stop_;
    absl::StrAppendFormat(&text, "  %-20s %-10s %s\n", setting.name, ValueOf(*message, field),
                          setting.help);
  }
  return text;
}

}  // namespace gma::client
