#include "client/cli/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace gma::client {
namespace {

constexpr int kHistoryEntries = 1000;

// Libedit cuts characters by the locale; where that is not UTF-8 (a bare container), take one that
// is, because the server speaks nothing else.
void UseUtf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

std::string DefaultHistoryFile() {
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return "";
  return std::string(home) + "/.gma_chat_history";
}

LineEditor::LineEditor(std::string history_file, bool colour)
    : history_file_(std::move(history_file)), colour_(colour) {
  UseUtf8();
  editor_ = el_init("gma-chat", stdin, stdout, stderr);
  history_ = history_init();
  GMA_CHECK(editor_ != nullptr && history_ != nullptr);
  HistEvent event;
  ::history(history_, &event, H_SETSIZE, kHistoryEntries);
  ::history(history_, &event, H_SETUNIQUE, 1);
  if (!history_file_.empty()) ::history(history_, &event, H_LOAD, history_file_.c_str());
  el_set(editor_, EL_CLIENTDATA, this);
  el_set(editor_, EL_HIST, ::history, history_);
  el_set(editor_, EL_EDITOR, "emacs");
  // Between two \1 stands what takes no room on the line.
  el_set(editor_, EL_PROMPT_ESC, &LineEditor::Prompt, '\1');
  // While a line is edited, Ctrl-C is a key: it drops the line. While an answer runs, it is a
  // signal as ever. (Libedit takes "intr=" for this, too, and then does not do it.)
  el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
  el_set(editor_, EL_ADDFN, "gma-interrupt", "Drops the line", &LineEditor::OnInterrupt);
  el_set(editor_, EL_BIND, "^C", "gma-interrupt", nullptr);
  el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_source(editor_, nullptr);  // the user's ~/.editrc
}

LineEditor::~LineEditor() {
  history_end(history_);
  el_end(editor_);
}

char* LineEditor::Prompt(editline* editor) {
  void* self = nullptr;
  el_get(editor, EL_CLIENTDATA, &self);
  const auto* line_editor = static_cast<LineEditor*>(self);
  // Libedit drops an escape sequence behind which nothing stands.
  static char coloured[] = "\1\x1b[1;36m\1>\1\x1b[0m\1 ", plain[] = "> ", more[] = ". ";
  if (line_editor->continued_) return more;
  return line_editor->colour_ ? coloured : plain;
}

unsigned char LineEditor::OnInterrupt(editline* editor, int key) {
  void* self = nullptr;
  el_get(editor, EL_CLIENTDATA, &self);
  static_cast<LineEditor*>(self)->interrupted_ = true;
  return CC_NEWLINE;
}

LineEditor::Line LineEditor::Read() {
  std::string text;
  continued_ = false;
  for (;;) {
    interrupted_ = false;
    int count = 0;
    // Libedit shows the prompt first and takes the terminal over when it reads, so that keys typed
    // in between would be echoed twice, and a Ctrl-D lost.
    el_set(editor_, EL_PREP_TERM, 1);
    const char* raw = el_gets(editor_, &count);
    if (interrupted_) {
      std::fputs("^C\n", stdout);
      return {Kind::kInterrupted, ""};
    }
    if (raw == nullptr || count <= 0) break;
    std::string_view line(raw, static_cast<size_t>(count));
    if (line.back() == '\n') line.remove_suffix(1);
    continued_ = !line.empty() && line.back() == '\\';
    if (!continued_) {
      text += line;
      Remember(text);
      return {Kind::kText, std::move(text)};
    }
    line.remove_suffix(1);
    text += line;
    text += '\n';
  }
  return {Kind::kEnd, ""};
}

void LineEditor::Remember(const std::string& text) {
  if (text.find_first_not_of(" \t\n") == std::string::npos) return;
  HistEvent event;
  ::history(history_, &event, H_ENTER, text.c_str());
  if (history_file_.empty()) return;
  // Made here, so that it is private from its first byte on.
  const int file = open(history_file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return;  // a history is not worth a complaint on each line
  fchmod(file, 0600);
  close(file);
  ::history(history_, &event, H_SAVE, history_file_.c_str());
}

}  // namespace gma::client
