#include "prompt_beginning.h"

#include "core/error.h"
#include "engine/prefix_file.h"
#include "eval/chat_prefix.h"
#include "load/utf8.h"
#include "terminal.h"

namespace lowkey {
namespace {

// What shells make hard to type.
std::string with_line_breaks(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n') {
      out += '\n';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::vector<int32_t> beginning_tokens(const std::string& what, const Engine& engine) {
  std::vector<int32_t> tokens;
  if (what == "chat") {
    tokens = chat_prefix(engine);
  } else if (what.ends_with(".safetensors")) {
    const PrefixFile file = read_prefix(what);
    check_prefix(file, what, engine.file());
    tokens = file.prefix->tokens;
  } else {
    tokens = engine.encode_text(with_line_breaks(what));
  }
  if (tokens.empty()) fail(ErrorCode::kInvalidArgument, "--begin-with '{}': no tokens", what);
  return tokens;
}

std::string shown_text(const std::string& text, int width) {
  std::string out;
  for (const char c : utf8_replace_invalid(text)) {
    if (c == '\n') {
      out += "\\n";
    } else {
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return fit(out, width);
}

}  // namespace lowkey
