#pragma once
// Text that remembers, byte for byte, whether the template or a message brought it. Every operation
// of the interpreter keeps that, so that what a user wrote cannot pass for the template's words.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey::jinja {

class Text {
 public:
  Text() = default;
  explicit Text(std::string_view bytes, bool trusted = true) { append(bytes, trusted); }

  std::string_view view() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  void append(std::string_view bytes, bool trusted = true);
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, size_t begin, size_t end);  // bytes [begin, end) of `other`
  Text slice(size_t begin, size_t end) const;

  // Calls visit(std::string_view bytes, bool trusted) for each maximal run.
  template <typename Visit>
  void for_each_run(Visit&& visit) const {
    size_t begin = 0;
    bool trusted = first_trusted_;
    for (const size_t end : turns_) {
      visit(view().substr(begin, end - begin), trusted);
      begin = end;
      trusted = !trusted;
    }
    if (begin < size()) visit(view().substr(begin), trusted);
  }

 private:
  bool last_trusted() const { return first_trusted_ != (turns_.size() % 2 == 1); }

  std::string bytes_;
  bool first_trusted_ = true;
  std::vector<size_t>
      turns_;  // where trust changes, ascending, inside bytes_; most texts have none
};

}  // namespace lowkey::jinja
