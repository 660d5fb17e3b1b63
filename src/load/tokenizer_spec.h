#pragma once
// What a file says about its tokenizer, before anything is built from it. Filled from GGUF metadata
// or from a Hugging Face folder. Torch-free, plain values.
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

// One step of splitting text before BPE, in order.
struct PreTokenizerStep {
  enum class Kind : uint8_t {
    kRegex,   // each match, and each stretch between matches, is a piece ("isolated")
    kDigits,  // every digit (\p{N}) is a piece of its own
  };
  Kind kind = Kind::kRegex;
  std::string pattern;  // PCRE2 syntax, UTF mode
};

struct TokenizerSpec {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  std::vector<std::string> tokens;     // id -> text (byte-level: in the printable alphabet)
  std::vector<TokenKind> token_kinds;  // same length
  std::vector<float> scores;           // same length for kSentencePiece, else empty
  std::vector<std::string> merges;     // "left right", rank = index; empty for kSentencePiece
  std::string pre_tokenizer;  // the name in the file: "smollm", "gpt-2", "llama-bpe", "qwen2",
                              // "default", ...
  std::vector<PreTokenizerStep> pre_steps;
  bool normalize_nfc = false;     // qwen2
  bool ignore_merges = false;     // llama-3: a piece that is itself a token is not merged
  bool add_space_prefix = false;  // kSentencePiece: "▁" before the first text
  bool add_bos = false;
  bool add_eos = false;
  int32_t bos = -1, eos = -1, unk = -1, pad = -1;  // -1: none
  std::vector<int32_t> end_of_generation;  // ids that end an answer (eos, eot, "<|im_end|>", ...)
};

}  // namespace lowkey
