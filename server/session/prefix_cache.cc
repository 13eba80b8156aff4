#include "server/session/prefix_cache.h"

#include <algorithm>
#include <iterator>

#include "absl/hash/hash.h"
#include "base/check.h"

namespace gma {
namespace {

// The hash of `tokens` after those that `hash` stands for. Seeded by the process, so nobody can
// prepare texts that collide.
uint64_t Chain(uint64_t hash, absl::Span<const int32_t> tokens) {
  for (const int32_t token : tokens) hash = absl::HashOf(hash, token);
  return hash;
}

}  // namespace

PrefixCache::Match PrefixCache::Find(uint32_t owner, absl::Span<const int32_t> text) {
  const auto found = owners_.find(owner);
  if (found == owners_.end()) return {};
  OwnerEntries& of = found->second;
  std::vector<Entries::iterator> matches;
  uint64_t hash = 0;
  size_t hashed = 0;
  for (const auto& [length, count] : of.lengths) {
    if (length > text.size()) break;
    hash = Chain(hash, text.subspan(hashed, length - hashed));
    hashed = length;
    const auto match = of.by_key.find(Key(length, hash));
    if (match != of.by_key.end()) matches.push_back(match->second);
  }
  for (; !matches.empty(); matches.pop_back()) {
    const Entries::iterator entry = matches.back();
    if (absl::MakeConstSpan(entry->tokens) != text.first(entry->tokens.size())) continue;
    of.entries.splice(of.entries.end(), of.entries, entry);
    return {.tokens = entry->tokens.size(), .row = entry->row.get()};
  }
  return {};
}

void PrefixCache::Put(uint32_t owner, std::vector<int32_t> tokens, RowSource row,
                      std::shared_ptr<const SavedRow> copy) {
  GMA_CHECK(row.size() == row_bytes_);
  if (tokens.size() < kLeastTokens) return;
  const Key key(tokens.size(), Chain(0, tokens));
  const auto holder = owners_.find(owner);
  if (holder != owners_.end()) {
    OwnerEntries& of = holder->second;
    const auto there = of.by_key.find(key);
    if (there != of.by_key.end()) {
      // The same text; or, once in an age of the world, another one, which then stays.
      of.entries.splice(of.entries.end(), of.entries, there->second);
      return;
    }
  }
  const size_t bytes = row_bytes_ + tokens.size() * sizeof(tokens[0]);
  if (!MakeRoom(owner, bytes)) return;
  // Counted here alone: a session that lets go of its checkpoint has made room for others.
  copy = copy == nullptr ? std::make_shared<SavedRow>(row, totals_)
                         : std::make_shared<SavedRow>(copy->shared(), totals_);
  OwnerEntries& of = owners_[owner];
  of.entries.push_back({.key = key, .tokens = std::move(tokens), .row = std::move(copy)});
  of.by_key[key] = std::prev(of.entries.end());
  ++of.lengths[key.first];
  of.bytes += bytes;
  bytes_ += bytes;
}

size_t PrefixCache::bytes_of(uint32_t owner) const {
  const auto of = owners_.find(owner);
  return of == owners_.end() ? 0 : of->second.bytes;
}

bool PrefixCache::MakeRoom(uint32_t owner, size_t bytes) {
  if (bytes > limit_) return false;
  while (bytes_ + bytes > limit_) {
    const auto most =
        std::max_element(owners_.begin(), owners_.end(), [&](const auto& a, const auto& b) {
          return std::pair(a.second.bytes, a.first == owner) <
                 std::pair(b.second.bytes, b.first == owner);
        });
    DropOldest(most->first);
  }
  return true;
}

void PrefixCache::DropOldest(uint32_t owner) {
  OwnerEntries& of = owners_[owner];
  const Entry& oldest = of.entries.front();
  const size_t bytes = oldest.bytes();
  of.by_key.erase(oldest.key);
  const auto length = of.lengths.find(oldest.key.first);
  if (--length->second == 0) of.lengths.erase(length);
  of.entries.pop_front();
  of.bytes -= bytes;
  bytes_ -= bytes;
  if (of.entries.empty()) owners_.erase(owner);
}

}  // namespace gma
