#include "load/jinja/text.h"

#include <algorithm>

namespace lowkey::jinja {

void Text::append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  if (bytes_.empty()) {
    first_trusted_ = trusted;
  } else if (last_trusted() != trusted) {
    turns_.push_back(bytes_.size());
  }
  bytes_ += bytes;
}

void Text::append(const Text& other, size_t begin, size_t end) {
  auto turn = std::upper_bound(other.turns_.begin(), other.turns_.end(), begin);
  bool trusted = other.first_trusted_ != ((turn - other.turns_.begin()) % 2 == 1);
  while (begin < end) {
    const size_t stop = turn == other.turns_.end() ? end : std::min(end, *turn++);
    append(other.view().substr(begin, stop - begin), trusted);
    begin = stop;
    trusted = !trusted;
  }
}

Text Text::slice(size_t begin, size_t end) const {
  Text out;
  out.append(*this, begin, end);
  return out;
}

}  // namespace lowkey::jinja
