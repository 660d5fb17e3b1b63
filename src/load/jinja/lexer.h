#pragma once
// Cuts a template into tokens, with white space trimmed the way Hugging Face configures Jinja2
// (trim_blocks and lstrip_blocks on).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lowkey::jinja {

enum class TokenType : uint8_t {
  kText,         // outside of any tag
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,   // text: its value
  kInteger,  // text: its digits, underscores removed
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type;
  std::string text;
  size_t offset;  // in the source
};

// `source` with line breaks as "\n" and without its last one, as Jinja2 reads it.
std::string normalize_source(std::string_view source);

// Throws Error kInvalidArgument naming line and column.
std::vector<Token> tokenize(std::string_view normalized_source);

// "line 3, column 14" of a byte offset.
std::string position(std::string_view normalized_source, size_t offset);

}  // namespace lowkey::jinja
