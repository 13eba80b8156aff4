#include "server/session/journal_record.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "server/session/byte_codec.h"
#include "server/session/sealed.h"

namespace gma {

template <typename Codec, SameAs<SamplingParams> T>
void Fields(Codec& codec, T& params) {
  auto& [temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty,
         frequency_penalty, logit_bias, banned_tokens, allowed_tokens, seed, top_logprobs] = params;
  codec(temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty,
        frequency_penalty, logit_bias, banned_tokens, allowed_tokens, seed, top_logprobs);
}

template <typename Codec, SameAs<StopParams> T>
void Fields(Codec& codec, T& params) {
  auto& [max_tokens, min_tokens, stop_tokens, stop_strings, ignore_eos] = params;
  codec(max_tokens, min_tokens, stop_tokens, stop_strings, ignore_eos);
}

template <typename Codec, SameAs<TurnBeginRecord> T>
void Fields(Codec& codec, T& record) {
  auto& [first_sequence, key, kind, context_before, feed, new_input, sampling, stop] = record;
  codec(first_sequence, key, kind, context_before, feed, new_input, sampling, stop);
}

template <typename Codec, SameAs<InterjectionRecord> T>
void Fields(Codec& codec, T& record) {
  auto& [drawn, tokens] = record;
  codec(drawn, tokens);
}

template <typename Codec, SameAs<TurnEndRecord> T>
void Fields(Codec& codec, T& record) {
  auto& [reason, drawn, failed, context_after, last_sequence] = record;
  codec(reason, drawn, failed, context_after, last_sequence);
}

template <typename Codec, SameAs<TurnRunsRecord> T>
void Fields(Codec& /*codec*/, T& /*record*/) {}

namespace {

constexpr std::string_view kMagic("GMAJRNL\0", 8);
constexpr size_t kNonceAt = 24, kHeadBytes = kNonceAt + Gcm::kNonceBytes;

// Tokens are looked up without a further question when the record is lived through again.
class Judge {
 public:
  explicit Judge(int32_t vocab_size) : vocab_size_(vocab_size) {}

  bool operator()(const TurnBeginRecord& record) const {
    const auto& bias = record.sampling.logit_bias;
    return record.first_sequence > 0 && record.key.size() <= kMaxTurnKeyBytes &&
           (record.kind == TurnKind::kAppend || record.kind == TurnKind::kAnswer) &&
           record.context_before >= 0 && Tokens(record.feed) &&
           std::all_of(bias.begin(), bias.end(),
                       [&](const auto& entry) { return Token(entry.first); }) &&
           Tokens(record.sampling.banned_tokens) && Tokens(record.sampling.allowed_tokens) &&
           Tokens(record.stop.stop_tokens) &&
           std::none_of(record.stop.stop_strings.begin(), record.stop.stop_strings.end(),
                        [](const std::string& text) { return text.empty(); });
  }
  bool operator()(const InterjectionRecord& record) const {
    return record.drawn >= 0 && Tokens(record.tokens);
  }
  bool operator()(const TurnEndRecord& record) const {
    return record.reason <= FinishReason::kCancelled && Tokens(record.drawn) &&
           record.context_after >= 0 && record.last_sequence >= 0;
  }
  bool operator()(const TurnRunsRecord& /*record*/) const { return true; }

 private:
  bool Token(int32_t token) const { return token >= 0 && token < vocab_size_; }
  bool Tokens(const std::vector<int32_t>& tokens) const {
    return std::all_of(tokens.begin(), tokens.end(), [&](int32_t token) { return Token(token); });
  }

  const int32_t vocab_size_;
};

template <typename Record>
absl::StatusOr<JournalRecord> ReadAs(ByteReader& reader, int32_t vocab_size) {
  Record record;
  reader(record);
  if (reader.AtEnd() && Judge(vocab_size)(record)) return JournalRecord(std::move(record));
  return absl::InvalidArgumentError("the journal record contradicts itself");
}

std::string Associated(const SnapshotScope& scope, std::string_view head) {
  return std::string(head) + absl::HexStringToBytes(scope.fingerprint);
}

}  // namespace

std::string WriteRecordBody(const JournalRecord& record) {
  ByteWriter writer;
  writer(static_cast<uint8_t>(record.index()));
  std::visit([&](const auto& value) { writer(value); }, record);
  return std::move(writer).Take();
}

absl::StatusOr<JournalRecord> ReadRecordBody(std::string_view bytes, int32_t vocab_size) {
  ByteReader reader(bytes);
  uint8_t kind = 0;
  reader(kind);
  switch (kind) {
    case 0:
      return ReadAs<TurnBeginRecord>(reader, vocab_size);
    case 1:
      return ReadAs<InterjectionRecord>(reader, vocab_size);
    case 2:
      return ReadAs<TurnEndRecord>(reader, vocab_size);
    case 3:
      return ReadAs<TurnRunsRecord>(reader, vocab_size);
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "the journal record is of kind ", static_cast<int>(kind), ", must be in [0, 3]"));
  }
}

std::string SealRecord(const SnapshotScope& scope, const RecordPlace& place,
                       const JournalRecord& record) {
  const std::string body = WriteRecordBody(record), nonce = RandomNonce();
  ByteWriter fixed;
  fixed(kJournalVersion, uint32_t{0}, place.number);
  std::string bytes = std::string(kMagic) + fixed.bytes() + nonce;
  GMA_CHECK(bytes.size() == kHeadBytes &&
            kHeadBytes + body.size() + Gcm::kTagBytes <= kMaxRecordBytes);
  Gcm cipher(Gcm::Direction::kSeal, JournalKey(scope.key, place.owner, place.id), nonce,
             Associated(scope, bytes));
  bytes.resize(kHeadBytes + body.size());
  cipher.Run(body.data(), body.size(), bytes.data() + kHeadBytes);
  return bytes + cipher.Tag();
}

absl::StatusOr<JournalRecord> OpenRecord(const SnapshotScope& scope, const RecordPlace& place,
                                         std::string_view bytes) {
  const std::string what =
      absl::StrCat("record ", place.number, " of the journal of session ", place.id.Short());
  if (bytes.size() < kHeadBytes + Gcm::kTagBytes || bytes.size() > kMaxRecordBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", bytes.size(), " bytes, must be in [",
                     kHeadBytes + Gcm::kTagBytes, ", ", kMaxRecordBytes, "]"));
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is none: it begins otherwise"));
  }
  const std::string_view head = bytes.substr(0, kHeadBytes);
  std::string_view sealed = bytes.substr(kHeadBytes, bytes.size() - kHeadBytes - Gcm::kTagBytes);
  ByteReader reader(head.substr(kMagic.size()));
  uint32_t version = 0, zero = 0;
  int64_t number = 0;
  reader(version, zero, number);
  if (version != kJournalVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        what, " has format version ", version, ", this server reads version ", kJournalVersion));
  }
  Gcm cipher(Gcm::Direction::kOpen, JournalKey(scope.key, place.owner, place.id),
             head.substr(kNonceAt), Associated(scope, head));
  std::string body(sealed.size(), '\0');
  cipher.Run(sealed.data(), sealed.size(), body.data());
  if (!cipher.TagIs(bytes.substr(bytes.size() - Gcm::kTagBytes))) {
    return absl::InvalidArgumentError(
        absl::StrCat(what,
                     " is cut, was changed, is another session's or another model's, or was "
                     "sealed with another key"));
  }
  if (number < place.number) {
    return absl::AlreadyExistsError(
        absl::StrCat(what, " is expected, and record ", number, " comes once more"));
  }
  if (number > place.number) {
    return absl::DataLossError(
        absl::StrCat(what, " is missing: record ", number, " stands in its place"));
  }
  return ReadRecordBody(body, scope.vocab_size);
}

}  // namespace gma
