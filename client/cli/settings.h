// The settings of an answer that a person can change: flags of gma-chat and /set.
#ifndef GMA_CLIENT_CLI_SETTINGS_H_
#define GMA_CLIENT_CLI_SETTINGS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gma/v1/common.pb.h"

namespace gma::client {

struct SettingInfo {
  const char* name;  // of the field of SamplingParams or StopParams
  const char* help;
};

// Values are checked for being numbers only: their ranges are the server's to know.
class Settings {
 public:
  // Defaults for a chat with a small model: temperature 0.2, top_p 0.9, repetition_penalty
  // 1.05, max_tokens 1024; whatever else is absent is the model's default.
  Settings();

  static absl::Span<const SettingInfo> All();

  // Sets one by its name; the value "default" leaves it to the model.
  // ERRORS: kInvalidArgument for an unknown name, listing all, and for a value that is no number.
  absl::Status Set(std::string_view name, std::string_view value);
  // One line a setting: name, value, what it means.
  std::string Describe() const;

  const v1::SamplingParams& sampling() const { return sampling_; }
  const v1::StopParams& stop() const { return stop_; }

 private:
  v1::SamplingParams sampling_;
  v1::StopParams stop_;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_SETTINGS_H_
