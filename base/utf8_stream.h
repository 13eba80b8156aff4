// Whole characters out of byte pieces: what a client shows of a token stream.
#ifndef GMA_BASE_UTF8_STREAM_H_
#define GMA_BASE_UTF8_STREAM_H_

#include <string>
#include <string_view>

namespace gma {

// Cuts a stream of byte pieces into whole UTF-8 characters: holds back the bytes of a character
// that is not complete yet. Bytes that can never become a character pass through as U+FFFD.
class Utf8Stream {
 public:
  // Appends `bytes`; returns the text that is complete now.
  std::string Push(std::string_view bytes);
  // Returns what is still held back (an unfinished character becomes U+FFFD) and empties it.
  std::string Flush();

 private:
  std::string held_;  // at most 3 bytes: the start of a character
};

}  // namespace gma

#endif  // GMA_BASE_UTF8_STREAM_H_
