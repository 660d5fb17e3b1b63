#pragma once
// Small vocabularies that can encode any bytes, made by hand: for tests and fuzzing.
#include <string>

#include "load/tokenizer_spec.h"

namespace lowkey::test {

// Returns the new id. Control and user-defined tokens become added tokens.
int32_t add_token(TokenizerSpec& spec, const std::string& text, TokenKind kind, float score = 0.0f);

// 256 bytes, eight merges ("t h", "h e", "th e", ...), SmolLM2's two splits, <|end|> (control) and
// <tool> (user-defined).
TokenizerSpec small_byte_level_spec();

// <unk>, <s>, </s>, 256 byte tokens, some scored pieces, <tool>; a space before the text.
TokenizerSpec small_sentencepiece_spec();

// The same look with ranked merges, as a tokenizer.json of Llama 2 gives it.
TokenizerSpec small_fallback_spec();

}  // namespace lowkey::test
