#include "load/added_tokens.h"

#include <algorithm>

#include "core/error.h"

namespace lowkey {

void AddedTokenTrie::insert(std::string_view text, int32_t value, bool control) {
  if (text.empty()) fail(ErrorCode::kCorruptFile, "tokenizer: an added token has no text");
  if (text.size() > kMaxTokenBytes) {
    fail(ErrorCode::kUnsupported, "tokenizer: added token '{}...' has {} bytes (at most {})",
         text.substr(0, 32), text.size(), kMaxTokenBytes);
  }
  uint32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    uint32_t next = child(node, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      auto& children = nodes_[node].children;
      children.insert(
          std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0}),
          {byte, next});
      if (node == 0) first_[byte] = next;
    }
    node = next;
  }
  nodes_[node].value = value;
  nodes_[node].control = control;
}

uint32_t AddedTokenTrie::child(uint32_t node, uint8_t byte) const {
  if (node == 0) return first_[byte];
  const auto& children = nodes_[node].children;
  const auto it =
      std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0});
  return it != children.end() && it->first == byte ? it->second : 0;
}

std::optional<AddedTokenTrie::Match> AddedTokenTrie::longest_at(std::string_view text, size_t begin,
                                                                size_t trusted_end) const {
  std::optional<Match> best;
  uint32_t node = 0;
  for (size_t at = begin; at < text.size(); ++at) {
    node = child(node, static_cast<uint8_t>(text[at]));
    if (node == 0) break;
    const Node& here = nodes_[node];
    if (here.value >= 0 && (!here.control || at + 1 <= trusted_end)) {
      best = Match{begin, at + 1, here.value};
    }
  }
  return best;
}

}  // namespace lowkey
