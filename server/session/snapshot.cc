#include "server/session/snapshot.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace gma {
namespace {

constexpr std::string_view kMagic("GMASNAP\0", 8);
constexpr size_t kHeadBytes = 132, kNonceAt = 120, kNonceBytes = 12, kTagBytes = 16;
constexpr size_t kPointBytes = 24 + 4 * SessionPoint::kAnswerTail;

// Little endian, whatever the machine.
template <typename T>
void Put(std::string& to, T value) {
  auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (size_t i = 0; i < sizeof(T); ++i) {
    to.push_back(static_cast<char>(static_cast<uint64_t>(bits) >> (8 * i) & 0xff));
  }
}

template <typename T>
T Get(const void* from, size_t offset) {
  const auto* bytes = static_cast<const uint8_t*>(from) + offset;
  uint64_t bits = 0;
  for (size_t i = 0; i < sizeof(T); ++i) bits |= uint64_t{bytes[i]} << (8 * i);
  return static_cast<T>(bits);
}

std::string OwnerHash(std::string_view owner) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(owner.data()), owner.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  return hash;
}

const unsigned char* Bytes(const void* data) { return static_cast<const unsigned char*>(data); }

std::string PointBytes(const SessionImage& image) {
  const SessionPoint& point = image.point;
  std::string bytes;
  Put(bytes, absl::ToInt64Seconds(image.ttl));
  Put(bytes, point.fed);
  Put(bytes, point.pending.value_or(-1));
  Put(bytes, static_cast<uint16_t>(point.answer_open ? 1 : 0));
  Put(bytes, static_cast<uint16_t>(point.answer_tail.size()));
  for (size_t i = 0; i < SessionPoint::kAnswerTail; ++i) {
    Put(bytes, i < point.answer_tail.size() ? point.answer_tail[i] : int32_t{0});
  }
  return bytes;
}

// AES-256-GCM in one direction. OpenSSL fails here only without memory or by our mistake.
class Gcm {
 public:
  Gcm(bool seal, const StateKey& key, std::string_view nonce, std::string_view head)
      : context_(EVP_CIPHER_CTX_new()) {
    int size = 0;
    GMA_CHECK(context_ != nullptr &&
              EVP_CipherInit_ex(context_, EVP_aes_256_gcm(), nullptr, key.bytes().data(),
                                Bytes(nonce.data()), seal ? 1 : 0) == 1 &&
              EVP_CipherUpdate(context_, nullptr, &size, Bytes(head.data()),
                               static_cast<int>(head.size())) == 1);
  }
  Gcm(const Gcm&) = delete;
  Gcm& operator=(const Gcm&) = delete;
  ~Gcm() { EVP_CIPHER_CTX_free(context_); }

  void Run(const void* from, size_t count, void* to) {
    int size = 0;
    GMA_CHECK(EVP_CipherUpdate(context_, static_cast<unsigned char*>(to), &size, Bytes(from),
                               static_cast<int>(count)) == 1 &&
              static_cast<size_t>(size) == count);
  }
  std::string Tag() {
    unsigned char none[16];
    int size = 0;
    std::string tag(kTagBytes, '\0');
    GMA_CHECK(EVP_CipherFinal_ex(context_, none, &size) == 1 &&
              EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_GCM_GET_TAG, kTagBytes, tag.data()) == 1);
    return tag;
  }
  // Whether all that was run is what the holder of the key has sealed.
  bool TagIs(std::string tag) {
    unsigned char none[16];
    int size = 0;
    return EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data()) == 1 &&
           EVP_CipherFinal_ex(context_, none, &size) == 1;
  }

 private:
  EVP_CIPHER_CTX* const context_;
};

}  // namespace

struct SnapshotWriter::Cipher : Gcm {
  using Gcm::Gcm;
};
struct SnapshotReader::Cipher : Gcm {
  using Gcm::Gcm;
};

size_t SnapshotScope::snapshot_bytes() const {
  return kHeadBytes + kPointBytes + row_bytes + kTagBytes;
}

SnapshotWriter::SnapshotWriter(const SnapshotScope& scope, std::string_view owner,
                               SessionImage image, int64_t created_at)
    : image_(std::move(image)), body_(PointBytes(image_)) {
  GMA_CHECK(image_.row.size() == scope.row_bytes && scope.fingerprint.size() == 64);
  head_ = kMagic;
  Put(head_, kSnapshotVersion);
  Put(head_, scope.layout_version);
  head_ += absl::HexStringToBytes(scope.fingerprint);
  head_ += OwnerHash(owner);
  Put(head_, uint32_t{scope.compensated ? 1u : 0u});
  Put(head_, uint32_t{0});
  Put(head_, uint64_t{0});
  Put(head_, image_.point.context_tokens());
  Put(head_, created_at);
  Put(head_, static_cast<uint64_t>(image_.row.size()));
  std::string nonce(kNonceBytes, '\0');
  GMA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), kNonceBytes) == 1);
  head_ += nonce;
  GMA_CHECK(head_.size() == kHeadBytes && body_.size() == kPointBytes);
  cipher_ = std::make_unique<Cipher>(/*seal=*/true, scope.key, nonce, head_);
}

SnapshotWriter::~SnapshotWriter() = default;

std::string SnapshotWriter::Next(size_t most) {
  if (!std::exchange(began_, true)) {
    std::string first = head_;
    first.resize(kHeadBytes + kPointBytes);
    cipher_->Run(body_.data(), kPointBytes, first.data() + kHeadBytes);
    return first;
  }
  const size_t count = std::min(most, image_.row.size() - sealed_);
  if (count == 0) return std::exchange(ended_, true) ? std::string() : cipher_->Tag();
  std::string bytes(count, '\0');
  cipher_->Run(image_.row.data() + sealed_, count, bytes.data());
  sealed_ += count;
  return bytes;
}

SnapshotReader::SnapshotReader(const SnapshotScope& scope, std::string_view owner)
    : scope_(scope), owner_(owner) {}

SnapshotReader::~SnapshotReader() = default;

absl::Status SnapshotReader::CheckHead() const {
  if (head_.compare(0, kMagic.size(), kMagic) != 0) {
    return absl::InvalidArgumentError("the bytes are no exported session: they begin otherwise");
  }
  const auto version = Get<uint32_t>(head_.data(), 8);
  if (version != kSnapshotVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the exported session has format version ",
                                                      version, ", this server reads version ",
                                                      kSnapshotVersion));
  }
  const std::string model = absl::BytesToHexString(head_.substr(16, 32));
  if (model != scope_.fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("the exported session is of another model: its fingerprint is ", model,
                     ", this server's is ", scope_.fingerprint));
  }
  const auto layout = Get<uint32_t>(head_.data(), 12);
  const auto compensated = Get<uint32_t>(head_.data(), 80);
  const auto row_bytes = Get<uint64_t>(head_.data(), 112);
  if (layout != scope_.layout_version || compensated != (scope_.compensated ? 1u : 0u) ||
      row_bytes != scope_.row_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the exported session has another state layout: version ", layout, ", compensated ",
        compensated, ", ", row_bytes, " bytes; this server's is version ", scope_.layout_version,
        ", compensated ", scope_.compensated ? 1 : 0, ", ", scope_.row_bytes, " bytes"));
  }
  if (head_.compare(48, 32, OwnerHash(owner_)) != 0) {
    return absl::PermissionDeniedError("the exported session belongs to another owner");
  }
  return absl::OkStatus();
}

absl::Status SnapshotReader::Add(std::string_view bytes) {
  if (head_.size() < kHeadBytes) {
    const size_t count = std::min(bytes.size(), kHeadBytes - head_.size());
    head_ += bytes.substr(0, count);
    bytes.remove_prefix(count);
    if (head_.size() < kHeadBytes) return absl::OkStatus();
    GMA_RETURN_IF_ERROR(CheckHead());
    body_.resize(kPointBytes + scope_.row_bytes);
    cipher_ = std::make_unique<Cipher>(/*seal=*/false, scope_.key,
                                       std::string_view(head_).substr(kNonceAt), head_);
  }
  const size_t count = std::min(bytes.size(), body_.size() - opened_);
  if (count > 0) cipher_->Run(bytes.data(), count, body_.data() + opened_);
  opened_ += count;
  bytes.remove_prefix(count);
  if (tag_.size() + bytes.size() > kTagBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the exported session is longer than its ",
                                                   scope_.snapshot_bytes(), " bytes"));
  }
  tag_ += bytes;
  return absl::OkStatus();
}

absl::StatusOr<SessionImage> SnapshotReader::Finish() && {
  const size_t size = head_.size() + opened_ + tag_.size();
  if (tag_.size() != kTagBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the exported session is cut: it has ", size,
                                                   " bytes of ", scope_.snapshot_bytes()));
  }
  if (!cipher_->TagIs(tag_)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the exported session was changed, or sealed with another key",
        scope_.key.kept() ? "" : "; this server has no --state_key, so its key ends with it"));
  }
  return TakeBody();
}

absl::StatusOr<SessionImage> SnapshotReader::TakeBody() {
  const uint8_t* body = body_.data();
  SessionImage image;
  image.ttl = absl::Seconds(Get<int64_t>(body, 0));
  image.point.fed = Get<int64_t>(body, 8);
  const auto pending = Get<int32_t>(body, 16);
  if (pending >= 0) image.point.pending = pending;
  image.point.answer_open = Get<uint16_t>(body, 20) != 0;
  const size_t tail = Get<uint16_t>(body, 22);
  // Whoever holds the key wrote this; what does not fit together is a mistake all the same.
  bool sound = image.ttl > absl::ZeroDuration() && image.point.fed >= 0 &&
               pending < scope_.vocab_size && tail <= SessionPoint::kAnswerTail &&
               Get<int64_t>(body, kPointBytes) == image.point.fed;
  for (size_t i = 0; sound && i < tail; ++i) {
    image.point.answer_tail.push_back(Get<int32_t>(body, 24 + 4 * i));
    sound =
        image.point.answer_tail.back() >= 0 && image.point.answer_tail.back() < scope_.vocab_size;
  }
  if (!sound) return absl::InvalidArgumentError("the exported session contradicts itself");
  body_.erase(body_.begin(), body_.begin() + kPointBytes);
  image.row = std::move(body_);
  return image;
}

}  // namespace gma
