// Structured log: one JSON object a line on standard error.
//   GMA_LOG(kInfo, "session_opened", {{"session", id.Short()}, {"rows_used", rows}});
// Fields never carry prompt text, generated text or keys. Strings are escaped, so a value cannot
// forge a second line.
// THREADS: any; each line is written with one write(2).
#ifndef GMA_BASE_LOG_H_
#define GMA_BASE_LOG_H_

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

namespace gma {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// One key and its value; the value is a string, an integer, a real number or a truth value.
struct LogField {
  LogField(std::string_view k, std::string_view v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, bool v) : key(k), value(v) {}
  LogField(std::string_view k, double v) : key(k), value(v) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) LogField(std::string_view k, T v)
      : key(k), value(static_cast<int64_t>(v)) {}

  std::string_view key;
  std::variant<std::string, bool, double, int64_t> value;
};

// Lines below `level` are dropped. Default: kInfo.
void SetLogLevel(LogLevel level);

// Writes one line: {"time": RFC 3339 in UTC, "level": ..., "event": ..., fields...}.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

}  // namespace gma

#define GMA_LOG(level, ...) ::gma::Log(::gma::LogLevel::level, __VA_ARGS__)

#endif  // GMA_BASE_LOG_H_
