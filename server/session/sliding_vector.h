// A sequence that grows at its end and is forgotten from its front.
#ifndef GMA_SERVER_SESSION_SLIDING_VECTOR_H_
#define GMA_SERVER_SESSION_SLIDING_VECTOR_H_

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace gma {

// Takes little memory when there is little in it, as with most of very many sessions (an empty
// std::deque takes 600 bytes), and at most a quarter more than its elements when there is much.
// A value. THREADS: one at a time.
template <typename T>
class SlidingVector {
 public:
  size_t size() const { return values_.size() - gone_; }
  bool empty() const { return size() == 0; }
  const T* begin() const { return values_.data() + gone_; }
  const T* end() const { return values_.data() + values_.size(); }
  // REQUIRES of these: there is such an element.
  const T& operator[](size_t i) const { return values_[gone_ + i]; }
  T& back() { return values_.back(); }
  const T& back() const { return values_.back(); }
  const T& front() const { return values_[gone_]; }

  void push_back(T value) {
    if (values_.size() == values_.capacity()) {
      Cut();
      values_.reserve(values_.size() + std::max(kLeast, values_.size() / kShare));
    }
    values_.push_back(std::move(value));
  }
  // REQUIRES of both: it is not empty.
  void pop_back() { values_.pop_back(); }
  void pop_front() {
    values_[gone_++] = T();  // what it holds goes now
    if (gone_ > kLeast && gone_ > values_.size() / kShare) Cut();
  }
  // REQUIRES: size <= size().
  void shrink(size_t size) { values_.resize(gone_ + size); }
  // Gives back what no element needs.
  void shrink_to_fit() {
    Cut();
    values_.shrink_to_fit();
  }
  void assign(std::vector<T> values) {
    values_ = std::move(values);
    gone_ = 0;
  }
  void clear() { assign({}); }

 private:
  static constexpr size_t kLeast = 4, kShare = 8;

  void Cut() {
    values_.erase(values_.begin(), values_.begin() + static_cast<ptrdiff_t>(gone_));
    gone_ = 0;
  }

  std::vector<T> values_;
  size_t gone_ = 0;  // elements at the front of values_
};

}  // namespace gma

#endif  // GMA_SERVER_SESSION_SLIDING_VECTOR_H_
