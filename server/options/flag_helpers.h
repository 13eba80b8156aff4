// Checks of flags that CLI11 has not.
#ifndef GMA_SERVER_OPTIONS_FLAG_HELPERS_H_
#define GMA_SERVER_OPTIONS_FLAG_HELPERS_H_

#include <cstdint>
#include <string>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace gma {

// CLI11 puts the flag's name in front of what a check returns.
inline CLI::Validator Integer(int64_t min, int64_t max) {
  const auto check = [min, max](std::string& text) {
    int64_t value = 0;
    if (absl::SimpleAtoi(text, &value) && min <= value && value <= max) return std::string();
    return absl::StrCat("is \"", text, "\", must be an integer in [", min, ", ", max, "]");
  };
  return CLI::Validator(check, "", "");
}

template <typename Int>
CLI::Option* AddInteger(CLI::App& app, const char* flag, Int& value, int64_t min, int64_t max,
                        const std::string& meaning) {
  return app
      .add_option(flag, value,
                  absl::StrCat(meaning, " Range [", min, ", ", max, "], default ", value, "."))
      ->check(Integer(min, max))
      ->option_text("N");
}

}  // namespace gma

#endif  // GMA_SERVER_OPTIONS_FLAG_HELPERS_H_
