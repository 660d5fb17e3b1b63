#pragma once
// GPT-2's printable alphabet: each of the 256 bytes as one visible character, so that vocabularies
// of bytes can be written as text ("Ġ" is the space). Torch-free, thread-safe.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lowkey {

// byte -> its character in UTF-8
const std::array<std::string, 256>& byte_alphabet();

// The bytes that a token's text stands for; nothing if a character is not in the alphabet.
std::optional<std::string> bytes_from_alphabet(std::string_view text);

}  // namespace lowkey
