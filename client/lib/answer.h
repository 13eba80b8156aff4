// An answer of the model as a client sees it: pieces of whole UTF-8 text, and an end that is never
// mistaken for a cut stream.
#ifndef GMA_CLIENT_LIB_ANSWER_H_
#define GMA_CLIENT_LIB_ANSWER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/utf8_stream.h"
#include "gma/v1/generation.pb.h"

namespace gma::client {

struct AnswerPiece {
  int32_t candidate = 0;                 // [0, n)
  std::string text;                      // whole characters; may be empty
  std::vector<v1::Token> tokens;         // the tokens of this piece, with their own byte pieces
  std::optional<v1::Finished> finished;  // set in the last piece of the candidate
  std::optional<v1::Appended> appended;  // input entered the answer behind this piece
};

// Puts the events of one answer together. THREADS: one at a time.
class AnswerAssembler {
 public:
  // `candidates`: how many Finished end the answer. REQUIRES: candidates >= 1.
  explicit AnswerAssembler(int32_t candidates) : candidates_(candidates) {}

  void Feed(const v1::Started& started) { started_ = started; }
  // ERRORS: kInternal when the server sends tokens after the end, or of a candidate that nobody
  // asked for.
  absl::StatusOr<AnswerPiece> Feed(v1::Tokens tokens);
  absl::StatusOr<AnswerPiece> Feed(v1::Finished finished);
  AnswerPiece Feed(v1::Appended appended);

  // Every candidate has finished.
  bool complete() const { return static_cast<int32_t>(finished_.size()) == candidates_; }
  const v1::Started& started() const { return started_; }
  const std::map<int32_t, v1::Finished>& finished() const { return finished_; }

 private:
  absl::Status CheckCandidate(int32_t candidate) const;

  const int32_t candidates_;
  v1::Started started_;
  std::map<int32_t, Utf8Stream> text_;        // by candidate
  std::map<int32_t, v1::Finished> finished_;  // by candidate
};

// An answer that is being streamed. Destroying it before its end cancels it.
// THREADS: Cancel from any thread (never from a signal handler); the others from one at a time.
class AnswerStream {
 public:
  virtual ~AnswerStream() = default;

  // Blocks for the next piece; nothing after the end of the answer, or of a Resume that had
  // nothing (more) to tell.
  // ERRORS: the server's status. kUnavailable for a stream that broke off before the end.
  absl::StatusOr<std::optional<AnswerPiece>> Next();
  // Whether Next would not block; waits for that, `timeout` at most.
  virtual bool Wait(absl::Duration timeout) = 0;
  // Ends the answer early. On a session the stream goes on and the answer ends with the reason
  // CANCELLED; else Next fails with kCancelled.
  virtual void Cancel() = 0;

  // How often the stream broke off and was taken up again so far.
  virtual int resumes() const { return 0; }

  // Number of the last event that went into the pieces so far: what ResumeSession goes on after.
  uint64_t last_sequence() const { return last_sequence_; }

  // Of the server; the seed is only known after the first piece.
  const v1::Started& started() const { return assembler_.started(); }
  // The ends so far, by candidate.
  const std::map<int32_t, v1::Finished>& finished() const { return assembler_.finished(); }

 protected:
  explicit AnswerStream(int32_t candidates) : assembler_(candidates) {}
  bool complete() const { return assembler_.complete(); }

 private:
  // The next event but heartbeats; nothing at an end of the stream that is none of the answer.
  virtual absl::StatusOr<std::optional<v1::GenerateResponse>> NextEvent() = 0;

  AnswerAssembler assembler_;
  uint64_t last_sequence_ = 0;
};

// Checks that no event of a stream was lost or repeated. THREADS: one at a time.
class SequenceCheck {
 public:
  // `last`: number of the last event that was seen.
  explicit SequenceCheck(uint64_t last = 0) : next_(last + 1) {}

  // `sequence` of an event that takes `count` numbers (a Tokens message one a token, others one); 0
  // is none. `begins`: Started or Appended, before which the session may have had other turns.
  // ERRORS: kDataLoss naming the number expected and the number found.
  absl::Status Accept(uint64_t sequence, int64_t count, bool begins);
  uint64_t last() const { return next_ - 1; }

 private:
  uint64_t next_;
};

}  // namespace gma::client

#endif  // GMA_CLIENT_LIB_ANSWER_H_
