#include "tests/chaos/script.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"

namespace gma::chaos {
namespace {

constexpr int64_t kUntilCancelled = 5000;  // tokens: so many are never drawn meanwhile

std::string Text(std::mt19937_64& random) {
  constexpr const char* kWords[] = {"the ",  "sea ",  "and ", "a ",    "black ", "cat, ", "slept ",
                                    "on 17", "a mat", ". ",   "Whose", "? ",     "old ",  "hill"};
  // Some are long: reading takes many steps.
  const uint64_t words = random() % 8 == 0 ? 200 + random() % 200 : 1 + random() % 12;
  std::string text;
  for (uint64_t i = 0; i < words; ++i) text += kWords[random() % std::size(kWords)];
  return text;
}

Step Generate(std::mt19937_64& random) {
  return {
      .kind = StepKind::kGenerate,
      .text = random() % 8 == 0 ? "" : Text(random),
      .max_tokens = static_cast<int64_t>(random() % 4 == 0 ? 1 + random() % 3 : 8 + random() % 120),
      .temperature = random() % 3 == 0 ? 0.0 : 1.0,
      .seed = random() % 1000};
}

// The same with something that happens while the answer is drawn. Where exactly is up to time.
Step Disturbed(std::mt19937_64& random, Step step) {
  if (random() % 2 == 0) {
    step.kind = StepKind::kCancel;
    step.max_tokens = kUntilCancelled;
    step.read = static_cast<int64_t>(1 + random() % 40);
  } else {
    step.kind = StepKind::kInterject;
    step.max_tokens += 8;
    step.read = static_cast<int64_t>(1 + random() % std::min<int64_t>(40, step.max_tokens));
    step.input = Text(random);
  }
  return step;
}

}  // namespace

Script MakeScript(uint64_t seed, uint64_t number) {
  std::mt19937_64 random(seed * 1'000'003 + number);
  Script script = {.on_a_stream = number % 2 == 0, .steps = {}};
  const uint64_t steps = 3 + random() % 6;
  for (uint64_t i = 0; i < steps; ++i) {
    const uint64_t choice = random() % 12;
    if (i == 0 || choice < 6) {
      Step step = Generate(random);
      if (i == 0 && step.text.empty()) step.text = "It ";
      if (script.on_a_stream && random() % 2 == 0) step = Disturbed(random, step);
      script.steps.push_back(step);
    } else if (choice < 9) {
      script.steps.push_back({.kind = StepKind::kAppend, .text = Text(random)});
    } else if (choice == 9) {
      script.steps.push_back(
          {.kind = StepKind::kRewind, .tokens_back = static_cast<int64_t>(random() % 60)});
    } else if (choice == 10) {
      script.steps.push_back({.kind = StepKind::kFork});
    } else {
      script.steps.push_back({.kind = StepKind::kCheckpoint, .text = absl::StrCat("mark ", i)});
    }
  }
  // Shows what the session holds in the end.
  script.steps.push_back({.kind = StepKind::kGenerate, .text = "So ", .max_tokens = 24});
  return script;
}

}  // namespace gma::chaos
