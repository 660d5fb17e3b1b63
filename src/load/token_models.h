#pragma once
// From a piece of text to tokens: the three models that files ask for. Torch-free; immutable,
// thread-safe, but for the scratch space that each caller brings.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "load/bpe_merge.h"
#include "load/tokenizer_spec.h"

namespace lowkey {

// Reused between pieces; one per thread.
struct BpeScratch {
  std::vector<BpeSymbol> symbols;
  BpeMerger merger;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // `piece`: valid UTF-8, under 2 GiB.
  virtual void encode(std::string_view piece, BpeScratch& scratch,
                      std::vector<int32_t>& out) const = 0;
  // Bytes that are not UTF-8: one token each, never merged.
  virtual void encode_bytes(std::string_view bytes, std::vector<int32_t>& out) const = 0;
};

// Control and unknown tokens are never produced from a piece, whatever the merges and scores say.
// `bytes`: what each token stands for. Both must outlive the model. Throws Error kCorruptFile: a
// merge that names no token, a score that is not a number.
std::unique_ptr<const TokenModel> make_token_model(const TokenizerSpec& spec,
                                                   const std::vector<std::string>& bytes);

}  // namespace lowkey
