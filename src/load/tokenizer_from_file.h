#pragma once
// Reads what a model file says about its tokenizer. Torch-free, thread-safe. Anything a tokenizer
// would do differently from the file's author is refused by name (Error kUnsupported), never
// approximated; what does not follow its format is an Error kCorruptFile naming the key.
#include <filesystem>

#include "load/gguf.h"
#include "load/tokenizer_spec.h"

namespace lowkey {

// tokenizer.ggml.*: models "gpt2" (byte-level BPE, pre-tokenizer by name) and "llama"
// (SentencePiece scores). Throws Error kNotFound if the file has no tokenizer at all.
TokenizerSpec tokenizer_spec_from_gguf(const GgufFile& file);

// `folder` holds tokenizer.json (required; Error kNotFound otherwise) and, where they exist,
// tokenizer_config.json (bos, eos, unk, pad) and generation_config.json (further ids that end an
// answer).
TokenizerSpec tokenizer_spec_from_hf(const std::filesystem::path& folder);

}  // namespace lowkey
