#include "base/json.h"

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace gma {
namespace {

using Json = nlohmann::ordered_json;

// Builds the document from SAX events; only that interface shows duplicate keys and depth in time.
class StrictBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit StrictBuilder(size_t max_values) : values_left_(max_values) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    // The parser reports an integer beyond 64 bits as a real number: refuse it by its spelling.
    if (text.find_first_of(".eE") == string_t::npos) return Fail("integer does not fit 64 bits");
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second) return Fail("duplicate key");
    if (!TakeOne()) return false;
    key_ = std::move(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("syntax error at byte ", position));
  }

  Json TakeRoot() { return std::move(root_); }
  const std::string& error() const { return error_; }

 private:
  bool Fail(std::string reason) {
    if (error_.empty()) error_ = std::move(reason);
    return false;
  }
  bool TakeOne() {
    if (values_left_ == 0) return Fail("too many values");
    --values_left_;
    return true;
  }
  bool Add(Json value) { return Place(std::move(value)) != nullptr; }
  // Puts a value where it belongs and returns its address, or null after an error.
  Json* Place(Json value) {
    if (!TakeOne()) return nullptr;
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // Keys are known to be new, so append: operator[] would search the whole ordered object.
    auto& members = parent.get_ref<Json::object_t&>();
    members.Container::emplace_back(std::move(key_), std::move(value));
    return &members.Container::back().second;
  }
  bool Open(Json container) {
    if (open_.size() == kMaxJsonDepth) return Fail("deeper than 64 levels");
    Json* placed = Place(std::move(container));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Json*> open_;  // the path of open containers; a parent never moves while it is open
  std::vector<std::unordered_set<std::string>> keys_;  // keys seen, for each open container
  std::string key_;
  std::string error_;
  size_t values_left_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON of ", text.size(), " bytes, limit ", limits.max_bytes));
  }
  // The parser takes a zero byte for the end of the text and would not look behind it.
  if (size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: zero byte at byte ", zero));
  }
  StrictBuilder builder(limits.max_values);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: ", builder.error()));
  }
  return builder.TakeRoot();
}

}  // namespace gma
