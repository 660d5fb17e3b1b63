#pragma once
// Finds added tokens ("<|im_start|>", runs of spaces) in text: leftmost, then longest, as Hugging
// Face does. Torch-free; immutable after building, thread-safe.
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace lowkey {

class AddedTokenTrie {
 public:
  // Bounds the work per byte of text, and is far above what any vocabulary uses. insert() throws
  // Error kUnsupported for a longer text, kCorruptFile for an empty one.
  static constexpr size_t kMaxTokenBytes = 1024;

  AddedTokenTrie() : nodes_(1) { first_.fill(0); }
  // `value` is the caller's; `control`: only found where the caller allows control tokens.
  void insert(std::string_view text, int32_t value, bool control);
  bool empty() const { return nodes_.size() == 1; }

  struct Match {
    size_t begin = 0, end = 0;
    int32_t value = -1;
  };
  // The first match at or after `from`, the longest one there. A control token counts only if it
  // ends at or before trusted_end(begin): the end of the trusted run around `begin`, or anything
  // <= begin outside of one.
  template <typename TrustedEnd>
  std::optional<Match> find(std::string_view text, size_t from, TrustedEnd&& trusted_end) const {
    for (size_t at = from; at < text.size(); ++at) {
      if (first_[static_cast<uint8_t>(text[at])] == 0) continue;
      if (const auto match = longest_at(text, at, trusted_end(at))) return match;
    }
    return std::nullopt;
  }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;  // sorted by byte
    int32_t value = -1;
    bool control = false;
  };

  uint32_t child(uint32_t node, uint8_t byte) const;  // 0: none
  std::optional<Match> longest_at(std::string_view text, size_t begin, size_t trusted_end) const;

  std::vector<Node> nodes_;  // 0 is the root
  std::array<uint32_t, 256> first_;
};

}  // namespace lowkey
