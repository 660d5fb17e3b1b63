#include "support/tokenizer_specs.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "load/byte_alphabet.h"
#include "load/pre_tokenizers.h"

namespace lowkey::test {

namespace {

int32_t id_of(const TokenizerSpec& spec, const std::string& text) {
  const auto it = std::find(spec.tokens.begin(), spec.tokens.end(), text);
  LOWKEY_CHECK(it != spec.tokens.end(), "no token '{}'", text);
  return static_cast<int32_t>(it - spec.tokens.begin());
}

// Adds the merge, and the token it makes if that is not there yet.
void add_merge(TokenizerSpec& spec, const std::string& left, const std::string& right) {
  spec.merges.push_back({id_of(spec, left), id_of(spec, right)});
  if (std::find(spec.tokens.begin(), spec.tokens.end(), left + right) == spec.tokens.end()) {
    add_token(spec, left + right, TokenKind::kNormal);
  }
}

void add_byte_fallback(TokenizerSpec& spec) {
  spec.unk = add_token(spec, "<unk>", TokenKind::kUnknown);
  spec.bos = add_token(spec, "<s>", TokenKind::kControl);
  spec.eos = add_token(spec, "</s>", TokenKind::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    add_token(spec, fmt::format("<0x{:02X}>", byte), TokenKind::kByte);
  }
  spec.normalizer = {{.kind = NormalizerStep::Kind::kPrepend, .to = "\u2581"},
                     {.kind = NormalizerStep::Kind::kReplace, .from = " ", .to = "\u2581"}};
  spec.strip_leading_space = true;
}

}  // namespace

int32_t add_token(TokenizerSpec& spec, const std::string& text, TokenKind kind, float score) {
  const auto id = static_cast<int32_t>(spec.tokens.size());
  spec.tokens.push_back(text);
  spec.token_kinds.push_back(kind);
  if (spec.kind == TokenizerKind::kSentencePiece) spec.scores.push_back(score);
  if (kind == TokenKind::kControl || kind == TokenKind::kUnknown ||
      kind == TokenKind::kUserDefined) {
    spec.added.push_back({.id = id});
  }
  return id;
}

TokenizerSpec small_byte_level_spec() {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kByteLevelBpe;
  for (const std::string& character : byte_alphabet()) {
    add_token(spec, character, TokenKind::kNormal);
  }
  spec.pre_steps = named_pre_tokenizer("smollm").steps;
  const std::string space = byte_alphabet()[' '];
  add_merge(spec, "t", "h");
  add_merge(spec, "h", "e");
  add_merge(spec, "th", "e");
  add_merge(spec, space, "the");
  add_merge(spec, "A", "A");
  add_merge(spec, "AA", "AA");
  add_merge(spec, space, space);
  add_merge(spec, "u", "s");
  add_token(spec, "<|end|>", TokenKind::kControl);
  add_token(spec, "<tool>", TokenKind::kUserDefined);
  add_token(spec, "spare", TokenKind::kUnused);
  add_token(spec, "other spare", TokenKind::kUnused);
  return spec;
}

TokenizerSpec small_sentencepiece_spec() {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePiece;
  add_byte_fallback(spec);
  float score = -1.0f;
  for (const char* piece : {"\u2581the", "the", "th", "he", "\u2581t", "\u2581", "t", "h", "e", "n",
                            "A", "AA", "AAAA", "us", "u", "s", "\u2581\u2581"}) {
    add_token(spec, piece, TokenKind::kNormal, score);
    score -= 1.0f;
  }
  add_token(spec, "<tool>", TokenKind::kUserDefined);
  return spec;
}

TokenizerSpec small_fallback_spec() {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kMergesWithByteFallback;
  add_byte_fallback(spec);
  for (const char* character : {"\u2581", "t", "h", "e", "n", "A", "u", "s"}) {
    add_token(spec, character, TokenKind::kNormal);
  }
  add_merge(spec, "t", "h");
  add_merge(spec, "h", "e");
  add_merge(spec, "th", "e");
  add_merge(spec, "\u2581", "the");
  add_merge(spec, "A", "A");
  add_merge(spec, "AA", "AA");
  add_merge(spec, "u", "s");
  add_token(spec, "<tool>", TokenKind::kUserDefined);
  return spec;
}

}  // namespace lowkey::test
