#pragma once
// Normalizing text and cutting it into the pieces within which BPE merges. Torch-free; immutable,
// thread-safe.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "load/pattern.h"
#include "load/tokenizer_spec.h"

namespace lowkey {

// What GGUF's tokenizer.ggml.pre stands for. Throws Error kUnsupported for a name not known here.
struct NamedPreTokenizer {
  std::vector<PreTokenizerStep> steps;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;
};
NamedPreTokenizer named_pre_tokenizer(std::string_view name);

// Hugging Face's Punctuation, character by character, and Digits.
std::string_view punctuation_pattern();
std::string_view digit_pattern();

// GPT-2's pattern: contractions, words, numbers and the rest, each with the space before it.
std::string_view gpt2_pattern();

class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}
  bool empty() const { return steps_.empty(); }
  // Bytes that are not UTF-8 stay as they are.
  std::string apply(std::string_view text) const;

 private:
  std::vector<NormalizerStep> steps_;
};

// Pieces of `text`; those that are not UTF-8 are cut out first and no step touches them.
struct PieceText {
  struct Piece {
    size_t begin = 0, end = 0;
    bool valid_utf8 = true;  // of the text: a step of bytes may have cut a character since
  };
  std::string text;
  std::vector<Piece> pieces;  // in order, none empty

  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

class PreTokenizer {
 public:
  // Throws Error kUnsupported (see Pattern).
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps);
  // `first`: `text` is the start of what is being encoded. Throws as Matcher::find does.
  PieceText split(std::string text, bool first) const;

 private:
  std::vector<PreTokenizerStep> steps_;
  std::vector<Pattern> patterns_;  // of the kSplit steps, in order
};

}  // namespace lowkey
