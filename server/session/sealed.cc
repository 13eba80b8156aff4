#include "server/session/sealed.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "base/check.h"

namespace gma {
namespace {

const unsigned char* Bytes(const void* data) { return static_cast<const unsigned char*>(data); }

}  // namespace

// OpenSSL fails here only without memory or by our mistake.
Gcm::Gcm(Direction direction, const Key& key, std::string_view nonce, std::string_view associated)
    : context_(EVP_CIPHER_CTX_new()) {
  int size = 0;
  GMA_CHECK(nonce.size() == kNonceBytes && context_ != nullptr &&
            EVP_CipherInit_ex(context_, EVP_aes_256_gcm(), nullptr, key.data(), Bytes(nonce.data()),
                              direction == Direction::kSeal ? 1 : 0) == 1 &&
            EVP_CipherUpdate(context_, nullptr, &size, Bytes(associated.data()),
                             static_cast<int>(associated.size())) == 1);
}

Gcm::~Gcm() { EVP_CIPHER_CTX_free(context_); }

void Gcm::Run(const void* from, size_t count, void* to) {
  constexpr size_t kMost = size_t{1} << 30;  // OpenSSL counts in int
  const auto* in = static_cast<const uint8_t*>(from);
  auto* out = static_cast<uint8_t*>(to);
  while (count > 0) {
    const size_t part = count < kMost ? count : kMost;
    int size = 0;
    GMA_CHECK(EVP_CipherUpdate(context_, out, &size, in, static_cast<int>(part)) == 1 &&
              static_cast<size_t>(size) == part);
    in += part;
    out += part;
    count -= part;
  }
}

std::string Gcm::Tag() {
  unsigned char none[16];
  int size = 0;
  std::string tag(kTagBytes, '\0');
  GMA_CHECK(EVP_CipherFinal_ex(context_, none, &size) == 1 &&
            EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_GCM_GET_TAG, kTagBytes, tag.data()) == 1);
  return tag;
}

bool Gcm::TagIs(std::string_view tag) {
  unsigned char none[16];
  int size = 0;
  std::string expected(tag);
  GMA_CHECK(expected.size() == kTagBytes);
  return EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_GCM_SET_TAG, kTagBytes, expected.data()) == 1 &&
         EVP_CipherFinal_ex(context_, none, &size) == 1;
}

std::string RandomNonce() {
  std::string nonce(Gcm::kNonceBytes, '\0');
  GMA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), Gcm::kNonceBytes) == 1);
  return nonce;
}

std::string OwnerHash(std::string_view owner) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(Bytes(owner.data()), owner.size(), reinterpret_cast<unsigned char*>(hash.data()));
  return hash;
}

std::string IdBytes(const SessionId& id) { return absl::HexStringToBytes(id.Hex()); }

Gcm::Key JournalKey(const StateKey& key, std::string_view owner, const SessionId& id) {
  const std::string name = "gma journal" + OwnerHash(owner) + IdBytes(id);
  Gcm::Key made;
  unsigned int size = 0;
  GMA_CHECK(HMAC(EVP_sha256(), key.bytes().data(), static_cast<int>(key.bytes().size()),
                 Bytes(name.data()), name.size(), made.data(), &size) != nullptr &&
            size == made.size());
  return made;
}

}  // namespace gma
