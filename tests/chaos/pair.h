// A session on replicas, and the same one on a server that nothing happens to.
#ifndef GMA_TESTS_CHAOS_PAIR_H_
#define GMA_TESTS_CHAOS_PAIR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/lib/client.h"
#include "gtest/gtest.h"
#include "tests/chaos/replicas.h"
#include "tests/support/status_matchers.h"

namespace gma::chaos {

inline constexpr absl::Duration kPatience = absl::Seconds(60);

inline std::unique_ptr<client::Client> NewClient(const std::string& address) {
  client::ClientOptions options;
  options.address = address;
  options.resume_for = kPatience;
  return *client::Client::Create(options);
}

// One session, a turn at a time, with the same on the reference beside it.
class Pair {
 public:
  Pair(const std::string& address, Replicas& replicas)
      : client_(NewClient(address)), reference_(NewClient(replicas.reference().address())) {
    id_ = Open(*client_);
    reference_id_ = Open(*reference_);
  }

  // A turn on both; what they say must be the same.
  absl::Status Turn() {
    const absl::StatusOr<std::string> said = Turn(*client_, id_, last_);
    if (!said.ok()) return said.status();
    const absl::StatusOr<std::string> right = Turn(*reference_, reference_id_, reference_last_);
    if (!right.ok()) return right.status();
    ++turns_;
    if (*said == *right) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(*said, " is not ", *right));
  }
  // Asks another server, from here on.
  void Use(const std::string& address) { client_ = NewClient(address); }
  client::Client& client() { return *client_; }
  const std::string& id() const { return id_; }
  uint64_t last() const { return last_; }

  absl::StatusOr<v1::SessionInfo> Append(uint64_t after) {
    v1::AppendRequest request;
    request.set_session_id(id_);
    request.mutable_input()->set_text("And ");
    request.set_after(after);
    return client_->AppendToSession(request);
  }
  absl::StatusOr<v1::SessionInfo> Rewind(int64_t context_tokens, uint64_t after) {
    return client_->RewindSession(id_, context_tokens, after);
  }

 private:
  static std::string Open(client::Client& client) {
    const auto info = client.CreateSession({});
    EXPECT_THAT(info, testing::IsOk());
    return info.ok() ? info->session_id() : "";
  }
  absl::StatusOr<std::string> Turn(client::Client& client, const std::string& id, uint64_t& last) {
    v1::GenerateRequest request;
    request.set_session_id(id);
    request.mutable_input()->set_text(absl::StrCat("And ", turns_, "? "));
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_seed(static_cast<uint64_t>(turns_));
    request.mutable_stop()->set_max_tokens(20);
    request.mutable_stop()->set_ignore_eos(true);
    request.set_after(last);
    const auto answer = client.Generate(request);
    std::string said;
    for (;;) {
      const auto piece = answer->Next();
      if (!piece.ok()) return piece.status();
      if (!piece->has_value()) break;
      for (const v1::Token& token : (*piece)->tokens) absl::StrAppend(&said, token.id(), " ");
    }
    last = answer->last_sequence();
    return said;
  }

  std::unique_ptr<client::Client> client_, reference_;
  std::string id_, reference_id_;
  uint64_t last_ = 0, reference_last_ = 0;
  int turns_ = 0;
};

}  // namespace gma::chaos

#endif  // GMA_TESTS_CHAOS_PAIR_H_
