// Lines from a person at a terminal: editing and history by libedit.
#ifndef GMA_CLIENT_CLI_LINE_EDITOR_H_
#define GMA_CLIENT_CLI_LINE_EDITOR_H_

#include <optional>
#include <string>

struct editline;
struct history;

namespace gma::client {

// THREADS: one. At most one in the process.
class LineEditor {
 public:
  // `history_file`: read now, written after each line with mode 0600, at most 1,000 entries;
  // empty: none. `colour`: the prompt stands out.
  LineEditor(std::string history_file, bool colour);
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  ~LineEditor();

  enum class Kind { kText, kInterrupted, kEnd };
  struct Line {
    Kind kind;
    std::string text;  // of kText: several lines where all but the last ended in a backslash
  };
  // Reads one input. kInterrupted: Ctrl-C, the line is dropped. kEnd: Ctrl-D, or no terminal.
  Line Read();

 private:
  static char* Prompt(editline* editor);
  static unsigned char OnInterrupt(editline* editor, int key);
  void Remember(const std::string& text);

  const std::string history_file_;
  const bool colour_;
  editline* editor_;
  struct history* history_;
  bool continued_ = false;    // the prompt of a further line
  bool interrupted_ = false;  // Ctrl-C ended the line
};

// $HOME/.gma_chat_history; empty without a home.
std::string DefaultHistoryFile();

}  // namespace gma::client

#endif  // GMA_CLIENT_CLI_LINE_EDITOR_H_
