#include "tests/chaos/load.h"

#include <list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace gma::chaos {
namespace {

std::unique_ptr<client::Client> NewClient(const std::string& address, absl::Duration patience) {
  client::ClientOptions options;
  options.address = address;
  options.api_key = "";
  options.resume_for = patience;
  absl::StatusOr<std::unique_ptr<client::Client>> made = client::Client::Create(options);
  GMA_CHECK(made.ok());
  return *std::move(made);
}

}  // namespace

struct Load::Talk {
  uint64_t number;
  Conversation conversation;
};

Load::Load(LoadOptions options, OpenState open_state)
    : options_(std::move(options)), open_state_(std::move(open_state)) {
  for (int i = 0; i < options_.clients; ++i) threads_.emplace_back([this] { Run(); });
}

Load::~Load() { Finish(); }

void Load::Finish() {
  ending_ = true;
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Load::Run() {
  const auto client = NewClient(options_.address, options_.patience);
  const auto reference = NewClient(options_.reference, options_.patience);
  std::list<Talk> talks;
  while (!ending_ || !talks.empty()) {
    while (!ending_ && talks.size() < static_cast<size_t>(options_.sessions)) {
      const uint64_t number = next_++;
      talks.push_back({number, Conversation(*client, MakeScript(options_.seed, number), open_state_,
                                            options_.patience)});
    }
    // By turns, so that sessions stand idle in between, and have to make room for others.
    for (auto talk = talks.begin(); talk != talks.end();) {
      const bool more = talk->conversation.Step();
      ++counts_.steps;
      if (more) {
        ++talk;
        continue;
      }
      counts_.tokens += talk->conversation.tokens();
      counts_.resumes += talk->conversation.resumes();
      Compare(talk->number, *reference, talk->conversation.TakeSeen());
      talk = talks.erase(talk);
    }
  }
}

void Load::Compare(uint64_t number, client::Client& reference, SeenSession seen) {
  Conversation undisturbed(reference, MakeScript(options_.seed, number), open_state_,
                           options_.patience, &seen);
  while (undisturbed.Step()) {
  }
  counts_.turns += static_cast<int64_t>(seen.turns.size());
  for (const SeenTurn& turn : seen.turns) {
    if (turn.cancelled_after > 0) ++counts_.cancelled;
    if (turn.input_after > 0) ++counts_.entered;
  }
  ++counts_.sessions;
  const std::vector<std::string> faults = chaos::Compare(seen, undisturbed.TakeSeen());
  if (faults.empty()) return;
  counts_.faults += static_cast<int64_t>(faults.size());
  absl::MutexLock lock(&mutex_);
  for (const std::string& fault : faults) {
    faults_.push_back(absl::StrCat("session ", number, ": ", fault));
  }
}

std::vector<std::string> Load::faults() const {
  absl::MutexLock lock(&mutex_);
  return faults_;
}

}  // namespace gma::chaos
