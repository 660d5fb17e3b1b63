#include "load/byte_alphabet.h"

#include "load/utf8.h"

namespace lowkey {

namespace {

bool prints_as_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 0x144> bytes;  // code point -> byte, -1: none

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const char32_t c = prints_as_itself(byte) ? static_cast<char32_t>(byte) : next++;
      utf8_append(characters[byte], c);
      bytes[c] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
  return alphabet().characters;
}

std::optional<std::string> bytes_from_alphabet(std::string_view text) {
  const auto& bytes = alphabet().bytes;
  std::string out;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return std::nullopt;
    const char32_t c = utf8_decode(text.substr(0, length));
    if (c >= bytes.size() || bytes[c] < 0) return std::nullopt;
    out += static_cast<char>(bytes[c]);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace lowkey
