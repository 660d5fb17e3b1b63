#include "load/utf8.h"

#include <algorithm>
#include <cstdint>

namespace lowkey {

namespace {

struct LeadByte {
  size_t length = 0;                // of the whole sequence; 0: not a lead byte
  uint8_t low = 0x80, high = 0xbf;  // what the second byte may be
};

LeadByte classify(uint8_t byte) noexcept {
  if (byte < 0x80) return {.length = 1};
  if (byte >= 0xc2 && byte <= 0xdf) return {.length = 2};
  if (byte == 0xe0) return {.length = 3, .low = 0xa0};
  if (byte == 0xed) return {.length = 3, .high = 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {.length = 3};
  if (byte == 0xf0) return {.length = 4, .low = 0x90};
  if (byte == 0xf4) return {.length = 4, .high = 0x8f};
  if (byte >= 0xf1 && byte <= 0xf3) return {.length = 4};
  return {};
}

// Bytes of the longest prefix of `text` that begins a sequence (or is one): 0 if the first byte
// cannot begin any.
size_t begun(std::string_view text, const LeadByte& lead) noexcept {
  const size_t limit = std::min(lead.length, text.size());
  if (limit < 2) return limit;
  const auto second = static_cast<uint8_t>(text[1]);
  if (second < lead.low || second > lead.high) return 1;
  size_t n = 2;
  while (n < limit && (static_cast<uint8_t>(text[n]) & 0xc0) == 0x80) ++n;
  return n;
}

}  // namespace

size_t utf8_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const LeadByte lead = classify(static_cast<uint8_t>(text[0]));
  return begun(text, lead) == lead.length ? lead.length : 0;
}

size_t utf8_valid_prefix(std::string_view text) noexcept {
  size_t at = 0;
  while (at < text.size()) {
    const size_t n = utf8_length(text.substr(at));
    if (n == 0) break;
    at += n;
  }
  return at;
}

size_t utf8_unfinished_suffix(std::string_view text) noexcept {
  for (size_t n = std::min<size_t>(3, text.size()); n > 0; --n) {
    const std::string_view tail = text.substr(text.size() - n);
    const LeadByte lead = classify(static_cast<uint8_t>(tail[0]));
    if (lead.length > n && begun(tail, lead) == n) return n;
  }
  return 0;
}

char32_t utf8_decode(std::string_view sequence) noexcept {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(sequence[i]); };
  switch (sequence.size()) {
    case 1: return byte(0);
    case 2: return static_cast<char32_t>((byte(0) & 0x1f) << 6 | (byte(1) & 0x3f));
    case 3:
      return static_cast<char32_t>((byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 |
                                   (byte(2) & 0x3f));
    default:
      return static_cast<char32_t>((byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 |
                                   (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f));
  }
}

void utf8_append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

std::string utf8_replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += "\uFFFD";
    const LeadByte lead = classify(static_cast<uint8_t>(text[0]));
    text.remove_prefix(std::max<size_t>(1, begun(text, lead)));
  }
  return out;
}

}  // namespace lowkey
