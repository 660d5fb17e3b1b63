#pragma once
// Files of intact prefixes (docs/formats/prefix.md): keys and values that the 16-bit model made of
// some tokens, for any quantized version of it and any recipe. Torch-free.
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/intact_prefix.h"
#include "load/model_file.h"
#include "recipe/recipe.h"

namespace lowkey {

struct PrefixFile {
  std::shared_ptr<const IntactPrefix> prefix;
  std::string model_sha256;      // ModelFile::source_fingerprint()
  std::string tokenizer_sha256;  // tokenizer_fingerprint()
  std::string name;              // for people: "the ChatML system prompt"
  std::string command;           // that made it
  // What else its maker noted down (texts it was trained on, losses); carried along. Its keys are
  // none of the above.
  std::map<std::string, std::string> notes;
};

// SHA-256 over what turns text into ids and back: tokens and their kinds, scores, merges.
std::string tokenizer_fingerprint(const TokenizerSpec& tokenizer);

// Throws Error kNotFound / kIo; kCorruptFile naming the file and what is wrong: no prefix file, a
// tensor missing or of another type or shape, ids or hashes that are none, numbers that are not
// finite; kUnsupported for another version. `sha256`: what its bytes must hash to; empty:
// unchecked (kInvalidArgument).
PrefixFile read_prefix(const std::filesystem::path& path, const std::string& sha256 = {});
PrefixFile parse_prefix(std::span<const std::byte> bytes, const std::string& source_name);

// All or nothing. Throws Error kIo; kInvalidArgument where read_prefix would not take it.
void write_prefix(const std::filesystem::path& path, const PrefixFile& file);

// Throws Error kInvalidArgument where the prefix was made for another model, tokenizer or shape;
// `source` is its file, for the message.
void check_prefix(const PrefixFile& file, const std::string& source, const ModelFile& model);

// A prefix as a model's cache holds it: of models that rotate keys or values (hadamard_qk,
// hadamard_v), every row times H / sqrt(head_dim), and no hidden state: theirs has another basis;
// of others, the same object.
std::shared_ptr<const IntactPrefix> prefix_for(std::shared_ptr<const IntactPrefix> prefix,
                                               const ModelConfig& config);

// How many tokens the file that a recipe names holds; 0 where it names none. For arithmetic without
// a model. Throws Error as read_prefix.
int64_t prefix_tokens(const KvRecipe& recipe);

// The hidden state after the spec's prefix: what predicts the token after it. Throws Error
// kInvalidArgument where the prefix came without.
const std::vector<float>& hidden_after_prefix(const CacheSpec& spec);

// A recipe bound to a model: the prefix that it names is read, checked and turned. Throws Error as
// read_prefix, check_prefix and resolve_recipe.
CacheSpec cache_spec(const KvRecipe& recipe, const ModelFile& model);

}  // namespace lowkey
