#pragma once
// Which tokens end an answer. Torch-free.
#include "load/tokenizer_spec.h"

namespace lowkey {

// Files name one eos; chat models end a turn with another token as often as not. Adds the control
// tokens whose text is known to do so (llama.cpp's list), drops -1 and duplicates.
void complete_end_of_generation(TokenizerSpec& spec);

}  // namespace lowkey
