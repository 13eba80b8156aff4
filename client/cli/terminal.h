// What gma-chat shows: answers on standard output, all else beside it on standard error.
#ifndef GMA_CLIENT_CLI_TERMINAL_H_
#define GMA_CLIENT_CLI_TERMINAL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gma::client {

// Text that a terminal shows and does not obey: control characters but newline and tab become
// U+FFFD, so a model's answer can neither move the cursor nor set a title.
// REQUIRES: `text` is UTF-8, in whole characters.
std::string WithoutControls(std::string_view text);

// "1,234,567".
std::string Grouped(int64_t number);

// THREADS: one at a time, except where noted.
class Terminal {
 public:
  Terminal();

  // A person types at a terminal and reads on one.
  bool interactive() const { return input_is_tty_ && output_is_tty_; }
  bool input_is_tty() const { return input_is_tty_; }
  bool colour() const { return colour_; }

  // A piece of an answer, at once. False when nobody can read it any more (closed pipe).
  bool Write(std::string_view text);
  // Ends the line of an answer unless it has ended.
  bool EndLine();
  // A line that is no answer, greyed on a terminal; left out where nobody types.
  void Note(std::string_view line);
  // What a command of the user shows, as it is.
  void Show(std::string_view text);
  // A Note that is worth a line on standard error where nobody types.
  void Remark(std::string_view line);
  // "gma-chat: line" on standard error.
  void Error(std::string_view line);

  // Gives the terminal back as it was when the program started, for one that ends in the middle
  // of a line. THREADS: any.
  static void Restore();

 private:
  bool input_is_tty_, output_is_tty_, colour_;
  bool line_open_ = false;
};

// A turning mark behind a text on standard error, for as long as it lives, when that is a terminal
// and it takes longer than a moment; it leaves nothing behind.
class Spinner {
 public:
  explicit Spinner(std::string text);
  ~Spinner();

 private:
  void Run();

  const std::string text_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // only on a terminal
};

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_TERMINAL_H_
