#include "model/checkpoint/safetensors_header.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked_math.h"
#include "nlohmann/json.hpp"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxShownBytes = 32;

// Accepts exactly
//   {"__metadata__": {string: string}, name: {"dtype": T, "shape": [n...], "data_offsets": [a, b]}}
// with the keys of an entry in any order, each once.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(absl::Span<const uint8_t> data, size_t data_offset)
      : data_(data), data_offset_(data_offset) {}

  bool start_object(std::size_t) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool key(string_t& value) override;
  bool string(string_t& value) override;
  bool number_unsigned(number_unsigned_t value) override;
  bool number_integer(number_integer_t value) override {
    return Fail(absl::StrCat("negative number ", value, ", must be an integer of at least 0"));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Fail(
        absl::StrCat("number ", text.substr(0, kMaxShownBytes), " is not an integer below 2^64"));
  }
  bool null() override { return Fail("null is not expected"); }
  bool boolean(bool) override { return Fail("a truth value is not expected"); }
  bool binary(binary_t&) override { return Fail("a binary value is not expected"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("syntax error at byte ", position));
  }

  TensorMap TakeTensors() { return std::move(tensors_); }
  const std::string& error() const { return error_; }

 private:
  // Where the next event stands.
  enum class Place { kStart, kRoot, kMetadata, kEntry, kShape, kOffsets, kEnd };
  enum class Field { kNone, kType, kShape, kOffsets };
  struct Entry {
    std::optional<TensorType> type;
    std::optional<std::vector<int64_t>> shape;
    std::optional<std::vector<uint64_t>> offsets;
  };

  bool Fail(std::string_view reason);
  bool StartEntry(string_t& name);
  bool StartField(const string_t& field);
  bool FinishEntry();

  const absl::Span<const uint8_t> data_;
  const size_t data_offset_;
  Place place_ = Place::kStart;
  Field field_ = Field::kNone;  // of the entry, whose value comes next
  bool metadata_seen_ = false;
  std::string name_;  // of the open entry
  Entry entry_;
  TensorMap tensors_;
  std::string error_;
};

bool HeaderReader::Fail(std::string_view reason) {
  // The first error counts; the parser reports further ones while it unwinds.
  if (!error_.empty()) return false;
  error_ = "header";
  if (!name_.empty()) absl::StrAppend(&error_, ", entry ", ShowTensorName(name_));
  absl::StrAppend(&error_, ": ", absl::string_view(reason.data(), reason.size()));
  return false;
}

bool HeaderReader::start_object(std::size_t) {
  if (place_ == Place::kStart) {
    place_ = Place::kRoot;
    return true;
  }
  if (place_ != Place::kRoot) return Fail("an object is not expected");
  place_ = name_ == kSafetensorsMetadata ? Place::kMetadata : Place::kEntry;
  return true;
}

bool HeaderReader::end_object() {
  if (place_ == Place::kRoot) {
    place_ = Place::kEnd;
    return true;
  }
  if (place_ == Place::kEntry && !FinishEntry()) return false;
  place_ = Place::kRoot;
  name_.clear();
  return true;
}

bool HeaderReader::start_array(std::size_t) {
  if (place_ != Place::kEntry) return Fail("an array is not expected");
  if (field_ == Field::kShape) {
    entry_.shape.emplace();
    place_ = Place::kShape;
  } else if (field_ == Field::kOffsets) {
    entry_.offsets.emplace();
    place_ = Place::kOffsets;
  } else {
    return Fail("dtype must be a string");
  }
  return true;
}

bool HeaderReader::end_array() {
  if (place_ == Place::kOffsets && entry_.offsets->size() != 2) {
    return Fail("data_offsets must be two numbers");
  }
  place_ = Place::kEntry;
  return true;
}

bool HeaderReader::key(string_t& value) {
  if (place_ == Place::kRoot) return StartEntry(value);
  if (place_ == Place::kEntry) return StartField(value);
  return true;  // keys of the metadata do not matter
}

bool HeaderReader::StartEntry(string_t& name) {
  if (name.size() > kMaxTensorNameBytes) {
    return Fail(absl::StrCat("a name of ", name.size(), " bytes, limit ", kMaxTensorNameBytes));
  }
  if (name.empty()) return Fail("empty name");
  name_ = std::move(name);
  if (name_ == kSafetensorsMetadata) {
    if (std::exchange(metadata_seen_, true)) return Fail("duplicate name");
    return true;
  }
  if (tensors_.contains(name_)) return Fail("duplicate name");
  if (tensors_.size() == kMaxSafetensorsEntries) {
    return Fail(absl::StrCat("more than ", kMaxSafetensorsEntries, " entries"));
  }
  entry_ = Entry();
  return true;
}

bool HeaderReader::StartField(const string_t& field) {
  bool repeated = false;
  if (field == "dtype") {
    field_ = Field::kType;
    repeated = entry_.type.has_value();
  } else if (field == "shape") {
    field_ = Field::kShape;
    repeated = entry_.shape.has_value();
  } else if (field == "data_offsets") {
    field_ = Field::kOffsets;
    repeated = entry_.offsets.has_value();
  } else {
    return Fail(absl::StrCat("unknown key ", ShowTensorName(field.substr(0, kMaxShownBytes)),
                             ", known are dtype, shape, data_offsets"));
  }
  if (repeated) return Fail(absl::StrCat("duplicate key ", field));
  return true;
}

bool HeaderReader::string(string_t& value) {
  if (place_ == Place::kMetadata) return true;
  if (place_ != Place::kEntry || field_ != Field::kType) return Fail("a string is not expected");
  entry_.type = TensorTypeFromName(value);
  if (entry_.type.has_value()) return true;
  return Fail(absl::StrCat("unknown dtype ", ShowTensorName(value.substr(0, kMaxShownBytes)),
                           ", known are ", TensorTypeNames()));
}

bool HeaderReader::number_unsigned(number_unsigned_t value) {
  if (place_ == Place::kShape) {
    if (entry_.shape->size() == kMaxTensorDimensions) {
      return Fail(absl::StrCat("shape has more than ", kMaxTensorDimensions, " dimensions"));
    }
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Fail(absl::StrCat("shape overflows: ", value, " is not below 2^63"));
    }
    entry_.shape->push_back(static_cast<int64_t>(value));
    return true;
  }
  if (place_ == Place::kOffsets) {
    if (entry_.offsets->size() == 2) return Fail("data_offsets must be two numbers");
    entry_.offsets->push_back(value);
    return true;
  }
  return Fail("a number is not expected");
}

bool HeaderReader::FinishEntry() {
  if (!entry_.type.has_value()) return Fail("missing key dtype");
  if (!entry_.shape.has_value()) return Fail("missing key shape");
  if (!entry_.offsets.has_value()) return Fail("missing key data_offsets");
  const uint64_t begin = (*entry_.offsets)[0], end = (*entry_.offsets)[1];
  if (begin > end) {
    return Fail(absl::StrCat("data_offsets [", begin, ", ", end, "] run backwards"));
  }
  if (end > data_.size()) {
    return Fail(absl::StrCat("data_offsets end at ", end, ", outside the file's ", data_.size(),
                             " bytes of data"));
  }
  const std::optional<uint64_t> bytes = TensorBytes(*entry_.type, *entry_.shape);
  if (!bytes.has_value()) {
    return Fail(
        absl::StrCat("shape [", absl::StrJoin(*entry_.shape, ", "), "] overflows 2^64 bytes"));
  }
  if (*bytes != end - begin) {
    return Fail(absl::StrCat("shape needs ", *bytes, " bytes, data_offsets give ", end - begin));
  }
  if ((data_offset_ + begin) % TensorTypeBytes(*entry_.type) != 0) {
    return Fail(absl::StrCat("data misaligned: begins at byte ", data_offset_ + begin,
                             " of the file, must be a multiple of ",
                             TensorTypeBytes(*entry_.type)));
  }
  tensors_.emplace(
      name_, TensorView{*entry_.type, *std::move(entry_.shape), data_.subspan(begin, end - begin)});
  return true;
}

}  // namespace

std::string ShowTensorName(std::string_view name) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(absl::string_view(name.data(), name.size())),
                      "\"");
}

std::optional<uint64_t> TensorBytes(TensorType type, absl::Span<const int64_t> shape) {
  std::optional<uint64_t> bytes = TensorTypeBytes(type);
  for (int64_t size : shape) {
    if (size < 0) return std::nullopt;
    bytes = CheckedMul(*bytes, static_cast<uint64_t>(size));
    if (!bytes.has_value()) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<TensorMap> ParseSafetensorsHeader(std::string_view header,
                                                 absl::Span<const uint8_t> data,
                                                 size_t data_offset) {
  // The parser takes a zero byte for the end of the text and would not look behind it.
  if (size_t zero = header.find('\0'); zero != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("header: zero byte at byte ", zero));
  }
  HeaderReader reader(data, data_offset);
  if (!Json::sax_parse(header.begin(), header.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error());
  }
  return reader.TakeTensors();
}

}  // namespace gma
