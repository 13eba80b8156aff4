#include "server/store/store_format.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace gma {
namespace {

constexpr std::string_view kStoreMagic = "GMASTOR1";
constexpr std::string_view kFrameMagic = "GMJ1";

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78 : 0);
    table[i] = value;
  }
  return table;
}();

void PutInt(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

// Takes `count` bytes off the front.
uint64_t TakeInt(std::string_view& in, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    value |= uint64_t{static_cast<uint8_t>(in[i])} << (8 * i);
  }
  in.remove_prefix(count);
  return value;
}

void PutTimes(std::string& out, absl::Duration ttl, absl::Time at) {
  PutInt(out, static_cast<uint64_t>(absl::ToInt64Nanoseconds(ttl)), 8);
  PutInt(out, static_cast<uint64_t>(absl::ToUnixNanos(at)), 8);
}

absl::Duration TakeDuration(std::string_view& in) {
  return absl::Nanoseconds(static_cast<int64_t>(TakeInt(in, 8)));
}

// The frame at the front of `bytes`; none when it is not whole.
std::optional<JournalFrame> DecodeFrame(std::string_view bytes) {
  if (bytes.size() < kFrameHeaderBytes || !bytes.starts_with(kFrameMagic)) return std::nullopt;
  const uint32_t header_crc = Crc32c(bytes.substr(0, kFrameHeaderBytes - 4));
  std::string_view in = bytes.substr(kFrameMagic.size());
  JournalFrame frame;
  const uint64_t length = TakeInt(in, 4);
  const uint64_t record_crc = TakeInt(in, 4);
  frame.claim = TakeInt(in, 4) != 0;
  frame.epoch = TakeInt(in, 8);
  frame.ttl = TakeDuration(in);
  frame.at = absl::UnixEpoch() + TakeDuration(in);
  frame.synced = TakeInt(in, 8);
  if (TakeInt(in, 4) != header_crc || in.size() < length) return std::nullopt;
  frame.record = in.substr(0, length);
  if (Crc32c(frame.record) != record_crc) return std::nullopt;
  return frame;
}

// Whether a whole frame behind `place` says that `place` was durable when it was written.
bool DurableAt(std::string_view bytes, size_t place) {
  for (size_t at = bytes.find(kFrameMagic, place + 1); at != std::string_view::npos;
       at = bytes.find(kFrameMagic, at + 1)) {
    const std::optional<JournalFrame> frame = DecodeFrame(bytes.substr(at));
    if (frame.has_value() && frame->synced > place) return true;
  }
  return false;
}

}  // namespace

uint32_t Crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

std::string EncodeStoreHeader(const StoreHeader& header) {
  std::string out(kStoreMagic);
  PutInt(out, header.tombstone ? 1 : 0, 8);
  PutInt(out, header.epoch, 8);
  PutInt(out, header.generation, 8);
  PutTimes(out, header.ttl, header.saved_at);
  PutInt(out, header.blob_bytes, 8);
  PutInt(out, 0, 4);
  PutInt(out, Crc32c(out), 4);
  return out;
}

absl::StatusOr<StoreHeader> DecodeStoreHeader(std::string_view bytes) {
  if (bytes.size() < kStoreHeaderBytes) {
    return absl::DataLossError(
        absl::StrCat(bytes.size(), " bytes, the header alone has ", kStoreHeaderBytes));
  }
  const uint32_t crc = Crc32c(bytes.substr(0, kStoreHeaderBytes - 4));
  if (!bytes.starts_with(kStoreMagic)) {
    return absl::DataLossError("not a snapshot file of this version");
  }
  std::string_view in = bytes.substr(kStoreMagic.size());
  StoreHeader header;
  header.tombstone = TakeInt(in, 8) != 0;
  header.epoch = TakeInt(in, 8);
  header.generation = TakeInt(in, 8);
  header.ttl = TakeDuration(in);
  header.saved_at = absl::UnixEpoch() + TakeDuration(in);
  header.blob_bytes = TakeInt(in, 8);
  in.remove_prefix(4);
  if (TakeInt(in, 4) != crc) return absl::DataLossError("the header's checksum is wrong");
  return header;
}

std::string EncodeFrame(const JournalFrame& frame) {
  std::string out;
  out.reserve(kFrameHeaderBytes + frame.record.size());
  out.append(kFrameMagic);
  PutInt(out, frame.record.size(), 4);
  PutInt(out, Crc32c(frame.record), 4);
  PutInt(out, frame.claim ? 1 : 0, 4);
  PutInt(out, frame.epoch, 8);
  PutTimes(out, frame.ttl, frame.at);
  PutInt(out, frame.synced, 8);
  PutInt(out, Crc32c(out), 4);
  out.append(frame.record);
  return out;
}

absl::StatusOr<JournalContents> DecodeJournal(std::string_view bytes) {
  JournalContents contents;
  while (contents.whole_bytes < bytes.size()) {
    const std::optional<JournalFrame> frame = DecodeFrame(bytes.substr(contents.whole_bytes));
    if (!frame.has_value()) {
      if (DurableAt(bytes, contents.whole_bytes)) {
        return absl::DataLossError(absl::StrCat("the record at byte ", contents.whole_bytes,
                                                " of the journal is damaged"));
      }
      contents.torn = true;
      break;
    }
    contents.frames.push_back(*frame);
    contents.whole_bytes += kFrameHeaderBytes + frame->record.size();
  }
  return contents;
}

}  // namespace gma
