// AES-256-GCM, and the names of owners in what is sealed: used by snapshots and journal records.
#ifndef GMA_SERVER_SESSION_SEALED_H_
#define GMA_SERVER_SESSION_SEALED_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/session/session_id.h"
#include "server/session/state_key.h"

struct evp_cipher_ctx_st;  // OpenSSL's EVP_CIPHER_CTX

namespace gma {

// One message in one direction, piece by piece. THREADS: one at a time.
class Gcm {
 public:
  static constexpr size_t kNonceBytes = 12, kTagBytes = 16;
  enum class Direction { kSeal, kOpen };
  using Key = std::array<uint8_t, 32>;

  // `associated` is authenticated with the message. REQUIRES: nonce has kNonceBytes; no other
  // message is sealed with this key and nonce.
  Gcm(Direction direction, const Key& key, std::string_view nonce, std::string_view associated);
  Gcm(const Gcm&) = delete;
  Gcm& operator=(const Gcm&) = delete;
  ~Gcm();

  // The next `count` bytes. `to` may be `from`.
  void Run(const void* from, size_t count, void* to);
  // The tag of all that was sealed. REQUIRES: kSeal; called once, last.
  std::string Tag();
  // Whether all that was opened is what the holder of the key has sealed; until then it may be
  // anything. REQUIRES: kOpen; tag has kTagBytes; called once, last.
  bool TagIs(std::string_view tag);

 private:
  evp_cipher_ctx_st* const context_;
};

std::string RandomNonce();
// SHA-256, 32 bytes.
std::string OwnerHash(std::string_view owner);
// The 16 bytes that an id's hex digits stand for.
std::string IdBytes(const SessionId& id);
// A key for one session's journal, HMAC-SHA256 of the state key: with a nonce drawn at random for
// each record, one key for the journals of all sessions would be worn out (NIST SP 800-38D: 2^32
// messages a key), and a record opens in its own session only.
Gcm::Key JournalKey(const StateKey& key, std::string_view owner, const SessionId& id);

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SEALED_H_
