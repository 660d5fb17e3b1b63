#include "engine/prefix_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/hadamard.h"
#include "core/mapped_file.h"
#include "core/sha256.h"
#include "load/json.h"
#include "load/safetensors.h"
#include "load/safetensors_writer.h"
#include "model/kv_shape.h"

namespace lowkey {
namespace {

// The metadata's keys that are not notes.
constexpr std::string_view kVersionKey = "lowkey_prefix";
constexpr std::string_view kVersion = "1";
constexpr std::string_view kModelKey = "model_sha256";
constexpr std::string_view kTokenizerKey = "tokenizer_sha256";
constexpr std::string_view kTokensKey = "tokens";
constexpr std::string_view kNameKey = "name";
constexpr std::string_view kCommandKey = "command";
constexpr std::string_view kHidden = "hidden";

constexpr size_t kShownDigits = 12;  // of a hash, for people

bool is_own_key(std::string_view key) {
  return key == kVersionKey || key == kModelKey || key == kTokenizerKey || key == kTokensKey ||
         key == kNameKey || key == kCommandKey;
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string layer_name(int32_t layer, bool key) {
  return fmt::format("layers.{}.{}", layer, key ? "k" : "v");
}

// What SafetensorsFile took apart, as a prefix. Complaints are "FILE: what".
class Reader {
 public:
  explicit Reader(const SafetensorsFile& file) : file_(file) {}

  PrefixFile read() const {
    check_version();
    PrefixFile result;
    result.model_sha256 = hash(kModelKey);
    result.tokenizer_sha256 = hash(kTokenizerKey);
    for (const auto& [key, value] : file_.metadata()) {
      if (key == kNameKey) result.name = value;
      if (key == kCommandKey) result.command = value;
      if (!is_own_key(key)) result.notes.emplace(key, value);
    }
    result.prefix = std::make_shared<const IntactPrefix>(prefix());
    return result;
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kCorruptFile, "{}: {}", file_.source_name(),
         fmt::format(format, std::forward<Args>(args)...));
  }

  const std::string& metadata(std::string_view key) const {
    const auto found = file_.metadata().find(std::string(key));
    if (found == file_.metadata().end()) refuse("its metadata has no '{}'", key);
    return found->second;
  }

  void check_version() const {
    if (!file_.metadata().contains(std::string(kVersionKey))) {
      refuse(
          "not a prefix: its metadata has no '{}'; lowkey calibrate MODEL --what intact makes "
          "them",
          kVersionKey);
    }
    if (metadata(kVersionKey) != kVersion) {
      fail(ErrorCode::kUnsupported, "{}: prefix version {}; this program reads version {}",
           file_.source_name(), shown(metadata(kVersionKey)), kVersion);
    }
  }

  // Untrusted text in a message.
  static std::string shown(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, kShownDigits)) out += c < 0x20 || c == 0x7f ? '?' : c;
    return out;
  }

  std::string hash(std::string_view key) const {
    const std::string& digits = metadata(key);
    if (!is_sha256(digits)) refuse("'{}' is no SHA-256: 64 digits 0-9a-f", key);
    return digits;
  }

  std::vector<int32_t> tokens() const {
    const std::string& text = metadata(kTokensKey);
    check_json_limits(text, {.depth = 1}, file_.source_name());
    const nlohmann::json ids = nlohmann::json::parse(text, nullptr, false);
    if (!ids.is_array() || ids.empty() || ids.size() > kMaxIntactPrefix) {
      refuse("'tokens' is no list of 1 to {} ids", kMaxIntactPrefix);
    }
    std::vector<int32_t> tokens;
    for (const nlohmann::json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        refuse("'tokens' holds what is no id");
      }
      tokens.push_back(id.get<int32_t>());
    }
    return tokens;
  }

  const TensorView& tensor(const std::string& name, DType dtype) const {
    for (const TensorView& tensor : file_.tensors()) {
      if (tensor.name != name) continue;
      if (tensor.dtype != dtype) {
        refuse("tensor '{}' is {}, not {}", name, dtype_name(tensor.dtype), dtype_name(dtype));
      }
      return tensor;
    }
    refuse("tensor '{}' is missing", name);
  }

  IntactPrefix prefix() const {
    IntactPrefix prefix;
    prefix.tokens = tokens();
    const auto others = std::ssize(file_.tensors()) - 1;  // all but the hidden state
    const std::vector<int64_t>& shape = tensor(layer_name(0, true), DType::kF16).shape;
    if (others % 2 != 0 || others / 2 > kMaxLayers || shape.size() != 3 || shape[1] < 1 ||
        shape[1] > kMaxKvHeads || shape[2] < 1 || shape[2] > kMaxHeadDim) {
      refuse("{} tensors, 'layers.0.k' {}: not the keys and values of a prefix",
             file_.tensors().size(), shape_text(shape));
    }
    prefix.num_layers = static_cast<int32_t>(others / 2);
    prefix.num_kv_heads = static_cast<int32_t>(shape[1]);
    prefix.head_dim = static_cast<int32_t>(shape[2]);
    for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
      append_rows(prefix, layer_name(layer, true), prefix.k);
      append_rows(prefix, layer_name(layer, false), prefix.v);
    }
    prefix.hidden = hidden();
    return prefix;
  }

  // [tokens, heads, head_dim] of the file as [heads, tokens, head_dim].
  void append_rows(const IntactPrefix& prefix, const std::string& name,
                   std::vector<Half>& out) const {
    const TensorView& view = tensor(name, DType::kF16);
    const std::vector<int64_t> wanted = {prefix.length(), prefix.num_kv_heads, prefix.head_dim};
    if (view.shape != wanted) {
      refuse("tensor '{}' is {}, not {}", name, shape_text(view.shape), shape_text(wanted));
    }
    const auto row = static_cast<size_t>(prefix.head_dim);
    const size_t start = out.size();
    out.resize(start + view.data.size() / sizeof(Half));
    Half* to = out.data() + start;
    for (int64_t head = 0; head < prefix.num_kv_heads; ++head) {
      for (int64_t token = 0; token < prefix.length(); ++token, to += row) {
        const int64_t from = (token * prefix.num_kv_heads + head) * prefix.head_dim;
        std::memcpy(to, view.data.data() + static_cast<size_t>(from) * sizeof(Half),
                    row * sizeof(Half));
      }
    }
    for (size_t i = start; i < out.size(); ++i) {
      if (!std::isfinite(half_to_float(out[i]))) refuse("tensor '{}' is not finite", name);
    }
  }

  std::vector<float> hidden() const {
    const TensorView& view = tensor(std::string(kHidden), DType::kF32);
    if (view.shape.size() != 1 || view.shape[0] < 1) {
      refuse("tensor '{}' is {}, not a row", kHidden, shape_text(view.shape));
    }
    std::vector<float> hidden(static_cast<size_t>(view.shape[0]));
    std::memcpy(hidden.data(), view.data.data(), view.data.size());
    for (const float x : hidden) {
      if (!std::isfinite(x)) refuse("tensor '{}' is not finite", kHidden);
    }
    return hidden;
  }

  const SafetensorsFile& file_;
};

// [heads, tokens, head_dim] of one layer as the file has it.
std::vector<Half> rows_by_token(const IntactPrefix& prefix, const std::vector<Half>& rows,
                                int32_t layer) {
  std::vector<Half> out;
  for (int64_t token = 0; token < prefix.length(); ++token) {
    for (int32_t head = 0; head < prefix.num_kv_heads; ++head) {
      const auto* from = rows.data() + prefix.offset(layer, head) + token * prefix.head_dim;
      out.insert(out.end(), from, from + prefix.head_dim);
    }
  }
  return out;
}

void check_finite(const IntactPrefix& prefix, const std::filesystem::path& path) {
  const auto finite = [](Half h) { return std::isfinite(half_to_float(h)); };
  if (!std::all_of(prefix.k.begin(), prefix.k.end(), finite) ||
      !std::all_of(prefix.v.begin(), prefix.v.end(), finite) ||
      !std::all_of(prefix.hidden.begin(), prefix.hidden.end(),
                   [](float x) { return std::isfinite(x); })) {
    fail(ErrorCode::kInvalidArgument, "{}: the prefix's keys and values are not finite",
         path.string());
  }
}

}  // namespace

std::string tokenizer_fingerprint(const TokenizerSpec& tokenizer) {
  Sha256 hash;
  hash.update(fmt::format("lowkey tokenizer\n{} {} {} {}\n", static_cast<int>(tokenizer.kind),
                          tokenizer.tokens.size(), tokenizer.scores.size(),
                          tokenizer.merges.size()));
  for (size_t i = 0; i < tokenizer.tokens.size(); ++i) {
    const int kind =
        i < tokenizer.token_kinds.size() ? static_cast<int>(tokenizer.token_kinds[i]) : -1;
    hash.update(fmt::format("{} {} ", kind, tokenizer.tokens[i].size()));
    hash.update(tokenizer.tokens[i]);
  }
  for (const float score : tokenizer.scores) {
    hash.update(fmt::format("{:x} ", std::bit_cast<uint32_t>(score)));
  }
  for (const TokenMerge& merge : tokenizer.merges) {
    hash.update(fmt::format("{} {} ", merge.left, merge.right));
  }
  return to_hex(hash.finish());
}

PrefixFile parse_prefix(std::span<const std::byte> bytes, const std::string& source_name) {
  const SafetensorsFile file = SafetensorsFile::parse(bytes, source_name);
  return Reader(file).read();
}

PrefixFile read_prefix(const std::filesystem::path& path, const std::string& sha256) {
  const MappedFile file(path);
  if (!sha256.empty() && sha256_hex(file.bytes()) != sha256) {
    fail(ErrorCode::kInvalidArgument,
         "{}: not the prefix that the recipe was made with: its SHA-256 begins with {}, not {}",
         path.string(), sha256_hex(file.bytes()).substr(0, kShownDigits),
         sha256.substr(0, kShownDigits));
  }
  return parse_prefix(file.bytes(), path.string());
}

void write_prefix(const std::filesystem::path& path, const PrefixFile& file) {
  LOWKEY_CHECK(file.prefix != nullptr, "a file without a prefix");
  const IntactPrefix& prefix = *file.prefix;
  const auto numbers = static_cast<size_t>(prefix.offset(prefix.num_layers, 0));
  LOWKEY_CHECK(
      prefix.length() > 0 && prefix.length() <= kMaxIntactPrefix && prefix.num_layers > 0 &&
          prefix.num_layers <= kMaxLayers && prefix.num_kv_heads > 0 &&
          prefix.num_kv_heads <= kMaxKvHeads && prefix.head_dim > 0 &&
          prefix.head_dim <= kMaxHeadDim && prefix.k.size() == numbers &&
          prefix.v.size() == numbers && !prefix.hidden.empty(),
      "{} tokens, {} layers of {} heads x {}: {} and {} numbers", prefix.length(),
      prefix.num_layers, prefix.num_kv_heads, prefix.head_dim, prefix.k.size(), prefix.v.size());
  LOWKEY_CHECK(is_sha256(file.model_sha256) && is_sha256(file.tokenizer_sha256), "{} and {}",
               file.model_sha256, file.tokenizer_sha256);
  check_finite(prefix, path);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : file.notes) {
    LOWKEY_CHECK(!is_own_key(key), "a note '{}'", key);
    metadata.emplace(key, value);
  }
  metadata.emplace(kVersionKey, kVersion);
  metadata.emplace(kModelKey, file.model_sha256);
  metadata.emplace(kTokenizerKey, file.tokenizer_sha256);
  metadata.emplace(kTokensKey, nlohmann::json(prefix.tokens).dump());
  if (!file.name.empty()) metadata.emplace(kNameKey, file.name);
  if (!file.command.empty()) metadata.emplace(kCommandKey, file.command);

  std::vector<SafetensorsEntry> entries;
  for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
    for (const bool key : {true, false}) {
      entries.push_back(
          {layer_name(layer, key), "F16", {prefix.length(), prefix.num_kv_heads, prefix.head_dim}});
    }
  }
  entries.push_back({std::string(kHidden), "F32", {std::ssize(prefix.hidden)}});
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (int32_t layer = 0; layer < prefix.num_layers; ++layer) {
    for (const std::vector<Half>* rows : {&prefix.k, &prefix.v}) {
      const std::vector<Half> layer_rows = rows_by_token(prefix, *rows, layer);
      writer.write(std::as_bytes(std::span(layer_rows)));
    }
  }
  writer.write(std::as_bytes(std::span(prefix.hidden)));
  writer.finish();
}

void check_prefix(const PrefixFile& file, const std::string& source, const ModelFile& model) {
  const auto refuse = [&](std::string_view what, const std::string& theirs,
                          const std::string& ours) {
    fail(ErrorCode::kInvalidArgument,
         "{}: made for another {} ({}…) than {} has ({}…); lowkey calibrate {} --what intact makes "
         "one for it",
         source, what, theirs.substr(0, kShownDigits), model.path().string(),
         ours.substr(0, kShownDigits), model.path().string());
  };
  const std::string ours = model.source_fingerprint();
  if (file.model_sha256 != ours) refuse("model", file.model_sha256, ours);
  const std::string tokenizer = tokenizer_fingerprint(model.tokenizer());
  if (file.tokenizer_sha256 != tokenizer) refuse("tokenizer", file.tokenizer_sha256, tokenizer);
  // The model is right: what follows is damage, or was written by hand.
  const ModelConfig& config = model.config();
  const IntactPrefix& prefix = *file.prefix;
  const bool ids_known = std::all_of(prefix.tokens.begin(), prefix.tokens.end(),
                                     [&](int32_t id) { return id < config.vocab_size; });
  if (prefix.num_layers != config.num_layers || prefix.num_kv_heads != config.num_kv_heads ||
      prefix.head_dim != config.head_dim || std::ssize(prefix.hidden) != config.hidden_size ||
      !ids_known || prefix.length() >= config.max_context) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens in {} layers of {} KV heads x {}: the model has {} of {} x {}, and a "
         "context of {}",
         source, prefix.length(), prefix.num_layers, prefix.num_kv_heads, prefix.head_dim,
         config.num_layers, config.num_kv_heads, config.head_dim, config.max_context);
  }
}

std::shared_ptr<const IntactPrefix> prefix_for(std::shared_ptr<const IntactPrefix> prefix,
                                               const ModelConfig& config) {
  if (!config.hadamard_qk && !config.hadamard_v) return prefix;
  if (!std::has_single_bit(static_cast<uint32_t>(config.head_dim))) {
    fail(ErrorCode::kUnsupported, "heads of {} channels cannot be turned: no power of two",
         config.head_dim);
  }
  auto turned = std::make_shared<IntactPrefix>(*prefix);
  turned->hidden.clear();  // of a stream that is turned too, by what the head has taken up
  const auto turn = [&](std::vector<Half>& rows) {
    const auto width = static_cast<size_t>(config.head_dim);
    std::vector<float> row(width);
    for (size_t i = 0; i < rows.size(); i += width) {
      half_to_float(rows.data() + i, row.data(), config.head_dim);
      hadamard(row);
      float_to_half(row.data(), rows.data() + i, config.head_dim);
      for (size_t c = i; c < i + width; ++c) {
        if (!std::isfinite(half_to_float(rows[c]))) {
          fail(ErrorCode::kNumeric, "a row of the prefix, turned, is beyond f16's 65504");
        }
      }
    }
  };
  if (config.hadamard_qk) turn(turned->k);
  if (config.hadamard_v) turn(turned->v);
  return turned;
}

int64_t prefix_tokens(const KvRecipe& recipe) {
  if (!recipe.calibration) return 0;
  return read_prefix(recipe.calibration->file, recipe.calibration->sha256).prefix->length();
}

const std::vector<float>& hidden_after_prefix(const CacheSpec& spec) {
  LOWKEY_CHECK(spec.prefix != nullptr, "no prefix");
  if (spec.prefix->hidden.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "the text ends with the prefix, and the prefix does not say what follows it");
  }
  return spec.prefix->hidden;
}

CacheSpec cache_spec(const KvRecipe& recipe, const ModelFile& model) {
  const KvShape shape = kv_shape(model.config());
  if (!recipe.calibration) return CacheSpec(resolve_recipe(recipe, shape));
  const std::string& source = recipe.calibration->file;
  const PrefixFile file = read_prefix(source, recipe.calibration->sha256);
  check_prefix(file, source, model);
  return CacheSpec(resolve_recipe(recipe, shape, file.prefix->length()),
                   prefix_for(file.prefix, model.config()));
}

}  // namespace lowkey
