#include "tests/chaos/script.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace gma::chaos {
namespace {

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

}  // namespace

Script MakeScript(uint64_t seed, uint64_t number) {
  std::mt19937_64 random(seed * 1'000'003 + number);
  Script script = {.on_a_stream = number % 3 == 0, .steps = {}};
  const uint64_t steps = 3 + random() % 6;
  for (uint64_t i = 0; i < steps; ++i) {
    const uint64_t choice = random() % 12;
    if (i == 0 || choice < 6) {
      Step step = Generate(random);
      if (i == 0 && step.text.empty()) step.text = "It ";
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
