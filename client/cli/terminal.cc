#include "client/cli/terminal.h"

#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace gma::client {
namespace {

constexpr char kGrey[] = "\x1b[90m", kPlain[] = "\x1b[0m", kEraseLine[] = "\r\x1b[K";
constexpr absl::Duration kMoment = absl::Milliseconds(300);  // before a spinner shows
constexpr absl::Duration kTurn = absl::Milliseconds(120);

// The terminal's settings at the start; libedit changes them while a line is edited.
bool have_settings = false;
termios settings_at_start;

bool WantsColour() {
  const char* term = std::getenv("TERM");
  return std::getenv("NO_COLOR") == nullptr && term != nullptr && std::string_view(term) != "dumb";
}

}  // namespace

std::string WithoutControls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const Utf8Char next = ReadUtf8(text, position);
    const int32_t c = next.code_point;
    const bool control = c < 0x20 || (c >= 0x7f && c < 0xa0);
    if (control && c != '\n' && c != '\t') {
      out += "\xEF\xBF\xBD";
    } else {
      out.append(text, position, next.length);
    }
    position += next.length;
  }
  return out;
}

std::string Grouped(int64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool after_digit = i > 0 && digits[i - 1] != '-';
    if (after_digit && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

Terminal::Terminal()
    : input_is_tty_(isatty(STDIN_FILENO) == 1),
      output_is_tty_(isatty(STDOUT_FILENO) == 1),
      colour_(output_is_tty_ && WantsColour()) {
  have_settings = input_is_tty_ && tcgetattr(STDIN_FILENO, &settings_at_start) == 0;
}

bool Terminal::Write(std::string_view text) {
  if (text.empty()) return true;
  const std::string shown = output_is_tty_ ? WithoutControls(text) : std::string(text);
  line_open_ = shown.back() != '\n';
  return std::fwrite(shown.data(), 1, shown.size(), stdout) == shown.size() &&
         std::fflush(stdout) == 0;
}

bool Terminal::EndLine() { return !line_open_ || Write("\n"); }

void Terminal::Note(std::string_view line) {
  if (!interactive()) return;
  EndLine();
  const std::string shown = WithoutControls(line);
  std::printf("%s%s%s\n", colour_ ? kGrey : "", shown.c_str(), colour_ ? kPlain : "");
  std::fflush(stdout);
}

void Terminal::Show(std::string_view text) {
  EndLine();
  Write(text);
  EndLine();
}

void Terminal::Remark(std::string_view line) {
  if (interactive()) {
    Note(line);
  } else {
    Error(line);
  }
}

void Terminal::Error(std::string_view line) {
  if (output_is_tty_) EndLine();
  std::fprintf(stderr, "gma-chat: %s\n", WithoutControls(line).c_str());
}

void Terminal::Restore() {
  if (isatty(STDERR_FILENO) == 1) std::fputs("\n", stderr);
  if (have_settings) tcsetattr(STDIN_FILENO, TCSANOW, &settings_at_start);
}

Spinner::Spinner(std::string text) : text_(std::move(text)) {
  if (isatty(STDERR_FILENO) == 1) thread_ = std::thread([this] { Run(); });
}

Spinner::~Spinner() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void Spinner::Run() {
  absl::MutexLock lock(&mutex_);
  if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), kMoment)) return;
  for (int turn = 0; !stop_; ++turn) {
    std::fprintf(stderr, "\r%s %c ", text_.c_str(), "|/-\\"[turn % 4]);
    std::fflush(stderr);
    mutex_.AwaitWithTimeout(absl::Condition(&stop_), kTurn);
  }
  std::fputs(kEraseLine, stderr);
  std::fflush(stderr);
}

}  // namespace gma::client
