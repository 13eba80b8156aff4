// States that beginnings of texts lead to, found again by those texts: what a request that begins
// like an earlier one of its owner need not read again.
//
// An entry is a sequence of tokens, counted from the first of all, and a copy of the state row that
// has read exactly those. Entries of one owner are found by a chained 64-bit hash of their tokens,
// and a match counts only once the tokens themselves, which every entry keeps, were compared: two
// texts are never taken for one another, and nobody has to trust a hash. Token ids are 4 bytes
// beside a row of kilobytes to megabytes, less than the digests of all positions would be.
//
// Nothing is looked up, compared or counted across owners, so neither what is found nor how long it
// takes tells one owner what another one read.
#ifndef GMA_SERVER_SESSION_PREFIX_CACHE_H_
#define GMA_SERVER_SESSION_PREFIX_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "server/session/checkpoint_ring.h"

namespace gma {

// THREADS: engine thread only.
class PrefixCache {
 public:
  // Entries of one text stand at least so many tokens apart, and none is shorter: what is saved
  // must be worth a copy of a row.
  static constexpr size_t kLeastTokens = 16;

  struct Match {
    size_t tokens = 0;              // of the text's beginning; 0: nothing was found
    const SavedRow* row = nullptr;  // the state that has read them; until the next Put
  };

  // `limit`: bytes of rows and token ids held at most; less than a row of `row_bytes` keeps none.
  PrefixCache(size_t limit, size_t row_bytes) : limit_(limit), row_bytes_(row_bytes) {}

  bool on() const { return limit_ >= row_bytes_; }
  // The longest entry of `owner` that `text` begins with. Costs one pass over `text`, but for what
  // is longer than the owner's longest entry.
  Match Find(uint32_t owner, absl::Span<const int32_t> text);
  // Keeps a copy of `row`, which has read `tokens`, unless there is one or `tokens` are too few.
  // `copy`: one that exists already, null: none. To make room, the owner who holds most gives the
  // entry it has not used for longest, `owner` where it is one of those: nobody's entries are
  // driven out by somebody who holds more.
  void Put(uint32_t owner, std::vector<int32_t> tokens, RowSource row,
           std::shared_ptr<const SavedRow> copy);

  size_t bytes() const { return bytes_; }
  size_t bytes_of(uint32_t owner) const;

 private:
  using Key = std::pair<size_t, uint64_t>;  // number of tokens, and their hash
  struct Entry {
    Key key;
    std::vector<int32_t> tokens;
    std::shared_ptr<const SavedRow> row;

    size_t bytes() const { return row->bytes().size() + tokens.size() * sizeof(tokens[0]); }
  };
  using Entries = std::list<Entry>;
  struct OwnerEntries {
    Entries entries;  // used longest ago first
    absl::flat_hash_map<Key, Entries::iterator> by_key;
    std::map<size_t, int64_t> lengths;  // of entries, and how many have it
    size_t bytes = 0;
  };

  // Whether there is room for `bytes` more of `owner` now.
  bool MakeRoom(uint32_t owner, size_t bytes);
  void DropOldest(uint32_t owner);

  const size_t limit_, row_bytes_;
  CheckpointTotals totals_;                  // of the copies made here, which go before it
  std::map<uint32_t, OwnerEntries> owners_;  // those that hold something
  size_t bytes_ = 0;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_PREFIX_CACHE_H_
