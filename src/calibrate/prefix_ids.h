#pragma once
// Which tokens an intact prefix is made of, as people name them. Torch-free header.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace lowkey::calibrate {

// "bos": the beginning-of-text token, whether or not the tokenizer adds it (IntactKV_[B])
// "chat": how the model's chat template begins, up to where the user's text starts: with its
//   default system prompt, if it has one (IntactKV_[P])
// "system:TEXT": the same with that system message
// "text:TEXT", "text:@FILE": a text's tokens, a beginning-of-text token before them where the
//   tokenizer adds one
// "ids:1,2,3"
// Of them the first `length`, if it is given. Throws Error kInvalidArgument for anything else, for
// fewer than that, and where the model has no such token, the template no such beginning or the
// context no room; as Engine::encode_chat, read_file.
std::vector<int32_t> prefix_ids(const Engine& engine, const std::string& name,
                                std::optional<int64_t> length = std::nullopt);

// "chat" where the model has a chat template, else "bos".
const char* usual_prefix(const Engine& engine);

}  // namespace lowkey::calibrate
