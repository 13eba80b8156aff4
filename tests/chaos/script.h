// What an application does with a session: the same for the same seed, whatever the server does.
#ifndef GMA_TESTS_CHAOS_SCRIPT_H_
#define GMA_TESTS_CHAOS_SCRIPT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace gma::chaos {

enum class StepKind {
  kGenerate,
  kCancel,     // an answer that is cancelled while it is drawn; only on a stream
  kInterject,  // an answer that is given input while it is drawn; only on a stream
  kAppend,
  kRewind,
  kFork,
  kCheckpoint,
};

struct Step {
  StepKind kind;
  std::string text = {};   // of an answer and Append; empty: an answer that goes on
  int64_t max_tokens = 0;  // of an answer
  int64_t read = 0;        // of Cancel and Interject: tokens of the answer before that
  std::string input = {};  // of Interject
  double temperature = 0;
  uint64_t seed = 0;
  int64_t tokens_back = 0;  // of Rewind, at most
};

struct Script {
  // Turns go over one stream of the session; otherwise each is a call.
  bool on_a_stream = false;
  // A fork takes the rest of the steps with the application; the original does none any more.
  std::vector<Step> steps;
};

// `number`: of the session.
Script MakeScript(uint64_t seed, uint64_t number);

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_SCRIPT_H_
