#pragma once
// Tokens that texts begin with, as users name them and as they are shown to them.
#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace lowkey {

// `what`: "chat" (the chat template's tokens before the user's words), a prefix file
// (*.safetensors: its tokens), else a text, in which "<|im_start|>" is that token and \n a line
// break. Throws Error kInvalidArgument for no tokens; kUnsupported without a chat template; as
// read_prefix and check_prefix.
std::vector<int32_t> beginning_tokens(const std::string& what, const Engine& engine);

// A token's text, or several tokens', on one line: line breaks as \n, other control characters as
// blanks, at most `width` columns.
std::string shown_text(const std::string& text, int width);

}  // namespace lowkey
