#pragma once
// What a model's chat template puts before the user's first words: its system prompt and role
// markers. IntactKV_[P] (arXiv 2403.01241) keeps the keys and values of these tokens exact.
#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace lowkey {

// Throws Error kUnsupported for a model without a chat template; as Engine::encode_chat.
std::vector<int32_t> chat_prefix(const Engine& engine);

}  // namespace lowkey
