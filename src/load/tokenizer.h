#pragma once
// Text <-> token ids. Time O(n log n) in the text's length, no recursion, never splits UTF-8 when
// streaming. Torch-free; immutable after construction, thread-safe.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "load/prompt.h"
#include "load/tokenizer_spec.h"

namespace lowkey {

enum class SpecialTokens : uint8_t {
  kParse,   // "<|im_start|>" in the text becomes that token: templates
  kIgnore,  // it is text like any other: what a user typed
};

class Tokenizer {
 public:
  // Throws Error kCorruptFile: ids out of range, duplicate tokens, merges that name no token,
  // counts that differ, scores that are not numbers, invalid UTF-8; kUnsupported: a pattern PCRE2
  // refuses.
  explicit Tokenizer(TokenizerSpec spec);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Invalid UTF-8 in `text` is encoded byte by byte. A byte that the vocabulary cannot express is
  // left out, as llama.cpp and Hugging Face do (SmolLM2 has no token for six of the control
  // characters). add_special: put the file's bos/eos around the ids, as the file asks.
  // Throws Error kInvalidArgument if a pattern of the file needs too many steps on this text.
  std::vector<int32_t> encode(std::string_view text, SpecialTokens special, bool add_special) const;

  // A rendered chat prompt, encoded as one text (so that words and line breaks merge across pieces
  // as they would in Hugging Face), but control tokens are found only within what the template
  // wrote. Templates write their own bos, so usually add_special is false.
  std::vector<int32_t> encode(std::span<const PromptPiece> prompt, bool add_special) const;

  // Exact inverse for text encoded without specials, unless the file normalizes (NFC) or the
  // vocabulary lacks a byte. Control tokens print as nothing unless show_special. Throws Error
  // kInvalidArgument for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool show_special = false) const;
  // The bytes one token stands for; may be part of a UTF-8 sequence. Throws like decode().
  const std::string& token_bytes(int32_t id) const;

  int32_t vocab_size() const;
  int32_t find(std::string_view token) const;  // -1 if absent; the token's text as in the file
  bool is_end_of_generation(int32_t id) const;
  bool is_control(int32_t id) const;  // control or unknown: prints as nothing
  const TokenizerSpec& spec() const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// Decodes a stream of tokens, holding back the bytes of an unfinished UTF-8 sequence. What it
// returns is always valid UTF-8: put together it is decode() with each invalid sequence as U+FFFD.
// One stream per object, not thread-safe; the tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);
  std::string push(int32_t id);  // text that is complete now, maybe empty
  std::string finish();          // what was held back; the decoder is as new afterwards

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
  bool first_ = true;
};

}  // namespace lowkey
