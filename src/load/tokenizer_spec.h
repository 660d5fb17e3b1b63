#pragma once
// What a file says about its tokenizer, before anything is built from it. Filled from GGUF metadata
// or from a Hugging Face folder (tokenizer_from_file.h). Torch-free, plain values.
#include <cstdint>
#include <string>
#include <vector>

namespace lowkey {

enum class TokenizerKind : uint8_t {
  kByteLevelBpe,   // GPT-2 style: bytes mapped to printable characters, ranked merges
  kSentencePiece,  // scores decide the merges, "▁" for spaces, <0xNN> byte fallback (GGUF model
                   // "llama")
  kMergesWithByteFallback,  // the same look, but ranked merges (tokenizer.json of Llama 2, Mistral)
};

enum class TokenKind : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

// Two tokens that become the token whose text is theirs joined.
struct TokenMerge {
  int32_t left = -1;
  int32_t right = -1;
};

// A token looked for in the text as a whole, before normalizing and splitting. Its kind says when:
// kUserDefined always, kControl and kUnknown only where special tokens are parsed.
struct AddedToken {
  int32_t id = -1;
  bool lstrip = false;  // swallows the white space before it
  bool rstrip = false;  // swallows the white space after it
  bool normalized =
      false;  // kUserDefined only: looked for after normalizing, as its text normalizes
};

struct NormalizerStep {
  enum class Kind : uint8_t {
    kNfc,      // Unicode canonical composition
    kPrepend,  // `to` before every stretch of text between added tokens
    kReplace,  // the literal `from` by `to`
  };
  Kind kind = Kind::kNfc;
  std::string from = {}, to = {};
};

// What happens to the matches of a pre-tokenizer's pattern. Names as in Hugging Face tokenizers.
enum class SplitBehavior : uint8_t {
  kIsolated,            // each match, and each stretch between matches, is a piece
  kRemoved,             // matches vanish
  kMergedWithPrevious,  // a match ends the piece before it
  kMergedWithNext,      // a match begins the piece after it
  kContiguous,          // neighbouring matches are one piece
};

// One step of cutting text into pieces before BPE; each works inside the pieces of the one before.
struct PreTokenizerStep {
  enum class Kind : uint8_t {
    kSplit,    // by `pattern`
    kReplace,  // the literal `from` by `to`
    kPrefix,   // `to` before each piece that does not begin with it
  };
  Kind kind = Kind::kSplit;
  std::string pattern = {};  // Oniguruma syntax, within what pattern.h accepts
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // kSplit: what lies between matches counts as the matches
  // kSplit: the pattern sees each byte as its character of GPT-2's alphabet (byte_alphabet.h), and
  // may cut between the bytes of one character. Only such steps follow such a step.
  bool of_bytes = false;
  std::string from = {}, to = {};
  bool only_first = false;  // kPrefix: only at the start of the whole text
};

struct TokenizerSpec {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  std::vector<std::string> tokens;     // id -> text (byte-level: in the printable alphabet)
  std::vector<TokenKind> token_kinds;  // same length
  std::vector<float> scores;           // same length for kSentencePiece, else empty
  std::vector<TokenMerge> merges;      // rank = index; empty for kSentencePiece
  std::vector<AddedToken> added;
  std::string pre_tokenizer;  // the name in a GGUF file: "smollm", "gpt-2", "llama-bpe", "qwen2",
                              // "default", ...; "tokenizer.json" for a Hugging Face folder
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_steps;
  bool ignore_merges = false;        // llama-3: a piece that is itself a token is not merged
  bool strip_leading_space = false;  // decoding drops the space that encoding put before the text
  bool add_bos = false;
  bool add_eos = false;
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  std::vector<int32_t> end_of_generation;  // ids that end an answer (eos, eot, "<|im_end|>", ...)
};

}  // namespace lowkey
