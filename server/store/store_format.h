// What a file store's files hold, in little-endian order.
//
// A snapshot file is a header and the sealed blob; a tombstone is a header alone. A journal is a
// sequence of frames, each a header and a sealed record. Checksums find what a crash left half
// written; the seals inside guard the content.
#ifndef GMA_SERVER_STORE_STORE_FORMAT_H_
#define GMA_SERVER_STORE_STORE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gma {

// CRC-32C (Castagnoli polynomial, reflected; RFC 3720, appendix B.4).
uint32_t Crc32c(std::string_view bytes);

struct StoreHeader {
  bool tombstone = false;
  uint64_t epoch = 0;
  uint64_t generation = 0;  // rises by one with each snapshot of a session
  absl::Duration ttl;
  absl::Time saved_at;
  uint64_t blob_bytes = 0;
};
inline constexpr size_t kStoreHeaderBytes = 64;

std::string EncodeStoreHeader(const StoreHeader& header);
// ERRORS: kDataLoss when `bytes` does not begin with a whole header of this version.
absl::StatusOr<StoreHeader> DecodeStoreHeader(std::string_view bytes);

struct JournalFrame {
  bool claim = false;  // no record: only notes that the session was claimed under `epoch`
  uint64_t epoch = 0;
  absl::Duration ttl;
  absl::Time at;
  uint64_t synced = 0;  // bytes at the journal's begin known to be durable when this was written
  std::string_view record;
};
inline constexpr size_t kFrameHeaderBytes = 52;

std::string EncodeFrame(const JournalFrame& frame);

struct JournalContents {
  std::vector<JournalFrame> frames;  // borrow from the bytes given
  size_t whole_bytes = 0;            // of these frames
  bool torn = false;                 // bytes that are no frame follow
};

// Reads frames up to the end or the first that is not whole. What comes then is the torn tail of a
// crash, whose writes may have reached the disk in any order, unless a later frame tells that the
// place was durable already. ERRORS: kDataLoss in that case: acknowledged records are damaged.
absl::StatusOr<JournalContents> DecodeJournal(std::string_view bytes);

}  // namespace gma

#endif  // GMA_SERVER_STORE_STORE_FORMAT_H_
