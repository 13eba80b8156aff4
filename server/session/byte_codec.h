// Numbers, strings and lists as bytes, little endian whatever the machine: what is sealed and kept.
//
// A struct of ours says once what it consists of, in a template Fields(codec, value) found beside
// it: it binds all fields, `auto& [fed, pending] = value`, which does not compile when one was
// added and forgotten, and hands them on, `codec(fed, pending)`. ByteWriter then writes it and
// ByteReader reads it back.
#ifndef GMA_SERVER_SESSION_BYTE_CODEC_H_
#define GMA_SERVER_SESSION_BYTE_CODEC_H_

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace gma {

// T is U or const U.
template <typename T, typename U>
concept SameAs = std::same_as<std::remove_const_t<T>, U>;

// A value. THREADS: one at a time.
class ByteWriter {
 public:
  template <typename... T>
  void operator()(const T&... values) {
    (Write(values), ...);
  }
  const std::string& bytes() const { return bytes_; }
  std::string Take() && { return std::move(bytes_); }

 private:
  void WriteBits(uint64_t bits, size_t count) {
    for (size_t i = 0; i < count; ++i) bytes_.push_back(static_cast<char>(bits >> (8 * i) & 0xff));
  }
  void WriteCount(size_t count) { WriteBits(count, sizeof(uint32_t)); }

  template <std::integral T>
  void Write(T value) {
    WriteBits(static_cast<uint64_t>(value), sizeof(T));
  }
  void Write(double value) { WriteBits(std::bit_cast<uint64_t>(value), sizeof(value)); }
  void Write(float value) { WriteBits(std::bit_cast<uint32_t>(value), sizeof(value)); }
  template <typename T>
  requires std::is_enum_v<T>
  void Write(T value) { Write(static_cast<uint8_t>(value)); }
  void Write(const std::string& value) {
    WriteCount(value.size());
    bytes_ += value;
  }
  template <typename T>
  void Write(const std::optional<T>& value) {
    Write(value.has_value());
    if (value) Write(*value);
  }
  template <typename A, typename B>
  void Write(const std::pair<A, B>& value) {
    Write(value.first);
    Write(value.second);
  }
  template <typename T>
  void Write(const std::vector<T>& values) {
    WriteCount(values.size());
    for (const T& value : values) Write(value);
  }
  template <typename T>
  requires requires(ByteWriter& writer, const T& value) { Fields(writer, value); }
  void Write(const T& value) { Fields(*this, value); }

  std::string bytes_;
};

// Reads what ByteWriter wrote; any bytes are read to some end. Values are default ones from the
// first that is not there. A list takes memory for what stands there, whatever length it claims.
// An enum's number is not judged. THREADS: one at a time.
class ByteReader {
 public:
  // `bytes` outlive the reader.
  explicit ByteReader(std::string_view bytes) : left_(bytes) {}

  template <typename... T>
  void operator()(T&... values) {
    (Read(values), ...);
  }
  // Everything was there, and nothing is left over.
  bool AtEnd() const { return sound_ && left_.empty(); }
  bool sound() const { return sound_; }  // everything so far was there

 private:
  bool Has(size_t count) {
    sound_ = sound_ && left_.size() >= count;
    return sound_;
  }
  uint64_t ReadBits(size_t count) {
    if (!Has(count)) return 0;
    uint64_t bits = 0;
    for (size_t i = 0; i < count; ++i) bits |= uint64_t{static_cast<uint8_t>(left_[i])} << (8 * i);
    left_.remove_prefix(count);
    return bits;
  }
  size_t ReadCount() { return ReadBits(sizeof(uint32_t)); }

  template <std::integral T>
  void Read(T& value) {
    value = static_cast<T>(ReadBits(sizeof(T)));
  }
  void Read(bool& value) {
    const uint64_t bits = ReadBits(1);
    sound_ = sound_ && bits <= 1;
    value = bits == 1;
  }
  void Read(double& value) { value = std::bit_cast<double>(ReadBits(sizeof(value))); }
  void Read(float& value) {
    value = std::bit_cast<float>(static_cast<uint32_t>(ReadBits(sizeof(value))));
  }
  template <typename T>
  requires std::is_enum_v<T>
  void Read(T& value) { value = static_cast<T>(ReadBits(sizeof(uint8_t))); }
  void Read(std::string& value) {
    const size_t count = ReadCount();
    value = Has(count) ? std::string(left_.substr(0, count)) : std::string();
    if (sound_) left_.remove_prefix(count);
  }
  template <typename T>
  void Read(std::optional<T>& value) {
    bool has = false;
    Read(has);
    if (has) Read(value.emplace());
  }
  template <typename A, typename B>
  void Read(std::pair<A, B>& value) {
    Read(value.first);
    Read(value.second);
  }
  template <typename T>
  void Read(std::vector<T>& values) {
    const size_t count = ReadCount();
    if constexpr (std::is_arithmetic_v<T>) {
      if (left_.size() / sizeof(T) < count) sound_ = false;
      if (sound_) values.reserve(count);
    }
    for (size_t i = 0; i < count && sound_; ++i) Read(values.emplace_back());
  }
  template <typename T>
  requires requires(ByteReader& reader, T& value) { Fields(reader, value); }
  void Read(T& value) { Fields(*this, value); }

  std::string_view left_;
  bool sound_ = true;
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_BYTE_CODEC_H_
