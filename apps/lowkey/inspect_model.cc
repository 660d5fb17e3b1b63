#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "engine/prefix_file.h"
#include "inspect.h"
#include "kv_cost.h"
#include "model/kv_shape.h"
#include "model/simulation.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kUsualContext = 4096;
constexpr const char* kUsualRecipes[] = {"16", "8", "8/4", "4", "kivi-4", "kivi-2"};

std::string_view tokenizer_kind(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::kByteLevelBpe: return "byte-level BPE";
    case TokenizerKind::kSentencePiece: return "SentencePiece";
    case TokenizerKind::kMergesWithByteFallback: return "BPE with byte fallback";
  }
  LOWKEY_CHECK(false, "tokenizer kind {}", static_cast<int>(kind));
}

std::string rope_text(const RopeConfig& rope) {
  std::string text = fmt::format("base {:g}, {} channels", rope.base, rope.dim);
  if (rope.scaling == RopeScaling::kLinear) text += fmt::format(", linear / {:g}", rope.factor);
  if (rope.scaling == RopeScaling::kLlama3) {
    text += fmt::format(", llama3 / {:g} from {}", rope.factor, rope.original_context);
  }
  if (rope.scaling == RopeScaling::kYarn) {
    text += fmt::format(", YaRN / {:g} from {}", rope.factor, rope.original_context);
  }
  if (!rope.freq_divisors.empty()) text += ", divisors in the file";
  if (rope.attention_factor != 1.0)
    text += fmt::format(", attention factor {:.4g}", rope.attention_factor);
  return text;
}

template <typename Is>
int64_t count_layers(const ModelConfig& config, Is&& is) {
  return std::count_if(config.layers.begin(), config.layers.end(), is);
}

// How tokens know their places, of all kinds of layers.
std::string positions_text(const ModelConfig& config) {
  if (config.alibi) return "ALiBi";
  if (config.learned_positions) return "learned, one for each position";
  const auto of = [&](RopeUse use) {
    return count_layers(config, [&](const LayerConfig& layer) { return layer.rope == use; });
  };
  std::string text = "RoPE " + rope_text(config.rope);
  if (const int64_t local = of(RopeUse::kLocal); local > 0)
    text +=
        fmt::format("; {} of {} layers {}", local, config.num_layers, rope_text(config.local_rope));
  if (const int64_t none = of(RopeUse::kNone); none > 0)
    text += fmt::format("; {} of {} layers none", none, config.num_layers);
  return text;
}

// Empty if every layer sees all tokens.
std::string windows_text(const ModelConfig& config) {
  const int64_t sliding =
      count_layers(config, [](const LayerConfig& layer) { return layer.window > 0; });
  if (sliding == 0) return "";
  int32_t shortest = INT32_MAX, longest = 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.window == 0) continue;
    shortest = std::min(shortest, layer.window);
    longest = std::max(longest, layer.window);
  }
  const std::string tokens =
      shortest == longest
          ? with_separators(longest)
          : fmt::format("{} to {}", with_separators(shortest), with_separators(longest));
  return fmt::format("{} tokens in {} of {} layers", tokens, sliding, config.num_layers);
}

// Empty for a model without.
std::string experts_text(const ModelConfig& config) {
  const int64_t layers =
      count_layers(config, [](const LayerConfig& layer) { return layer.experts; });
  if (layers == 0) return "";
  return fmt::format("{} of {} for each token, MLP {}, in {} of {} layers",
                     config.experts_per_token, config.num_experts, config.expert_intermediate_size,
                     layers, config.num_layers);
}

std::string norms_text(const ModelConfig& config) {
  std::string text = config.norm == NormKind::kRms ? "RMS" : "LayerNorm";
  if (config.qk_norm) text += ", of queries and keys too";
  if (config.post_norms) text += ", behind attention and MLP too";
  if (config.shared_norm) text += ", one for attention and MLP";
  return text;
}

std::string biases_text(const ModelConfig& config) {
  std::vector<std::string_view> which;
  if (config.qkv_bias) which.push_back("q k v");
  if (config.attn_out_bias) which.push_back("attention output");
  if (config.mlp_bias) which.push_back("MLP");
  return which.empty() ? "none" : fmt::format("{}", fmt::join(which, ", "));
}

std::vector<const TensorView*> all_tensors(const ModelFile& model) {
  std::vector<const TensorView*> tensors;
  for (const std::string& name : model.tensor_names()) tensors.push_back(&model.tensor(name));
  return tensors;
}

int64_t context_of(const ModelFile& model, const InspectOptions& options) {
  const int64_t most = model.config().max_context;
  return options.ctx.value_or(most > 0 ? std::min(most, kUsualContext) : kUsualContext);
}

// The recipes asked for must fit the model; of the usual ones, those that do.
std::vector<KvCost> costs_of(const ModelFile& model, const InspectOptions& options) {
  const KvShape shape = kv_shape(model.config());
  const int64_t ctx = context_of(model, options);
  std::vector<KvCost> costs;
  for (const std::string& text : options.kv) {
    const KvRecipe recipe = parse_recipe(text);
    costs.push_back(kv_cost(recipe, shape, ctx, prefix_tokens(recipe)));
  }
  if (!options.kv.empty()) return costs;
  for (const char* recipe : kUsualRecipes) {
    try {
      costs.push_back(kv_cost(parse_recipe(recipe), shape, ctx));
    } catch (const Error& error) {
      // A head_dim that packed formats cannot take, or groups that do not divide it.
      if (error.code() != ErrorCode::kUnsupported && error.code() != ErrorCode::kInvalidArgument)
        throw;
    }
  }
  return costs;
}

Json model_json(const ModelFile& model, const InspectOptions& options) {
  const ModelConfig& config = model.config();
  const TokenizerSpec& tokenizer = model.tokenizer();
  Json json;
  json["kind"] = "model";
  json["path"] = model.path().string();
  json["format"] = model.format() == ModelFormat::kGguf ? "gguf" : "huggingface";
  json["fingerprint"] = model.fingerprint();
  if (const QuantizationInfo* const info = model.quantization()) {
    json["quantization"] = {
        {"method", info->method}, {"bits", info->bits},
        {"group", info->group},   {"activation_bits", config.activation_bits},
        {"source", info->source}, {"source_fingerprint", model.source_fingerprint()},
        {"text", info->text},     {"command", info->command},
        {"notes", info->notes}};
  }
  json["architecture"] = config.architecture;
  json["name"] = config.name;
  json["num_layers"] = config.num_layers;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_qo_heads"] = config.num_qo_heads;
  json["num_kv_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["vocab_size"] = config.vocab_size;
  json["max_context"] = config.max_context;
  json["rope"] = rope_text(config.rope);
  json["positions"] = positions_text(config);
  json["norms"] = norms_text(config);
  if (!windows_text(config).empty()) {
    json["windows"] = Json::array();
    for (const LayerConfig& layer : config.layers) json["windows"].push_back(layer.window);
  }
  if (const std::string text = experts_text(config); !text.empty()) json["experts"] = text;
  if (const std::string text = simulation_text(config); !text.empty()) json["simulated"] = text;
  json["tied_embeddings"] = config.tied_embeddings;
  json["weight_bytes"] = model.weight_bytes();
  json["tensor_types"] = tensor_types_json(all_tensors(model));
  json["tokenizer"] = {{"kind", tokenizer_kind(tokenizer.kind)},
                       {"tokens", tokenizer.tokens.size()},
                       {"merges", tokenizer.merges.size()},
                       {"pre_tokenizer", tokenizer.pre_tokenizer}};
  json["chat_template"] = !model.chat_template().empty();
  json["ctx"] = context_of(model, options);
  json["kv_cache"] = kv_cost_json(costs_of(model, options));
  return json;
}

// Empty but for folders that `lowkey quantize` wrote.
std::string quantization_text(const ModelFile& model) {
  const QuantizationInfo* const info = model.quantization();
  if (!info) return "";
  std::string text = fmt::format(
      "{}, {} bits, {}", info->method, info->bits,
      info->group == 0 ? "a scale for each row" : fmt::format("groups of {}", info->group));
  text += ", of " + info->source;
  if (!info->text.empty())
    text += fmt::format(", on {} x {} tokens of {}", info->samples, info->context, info->text);
  return text;
}

Facts architecture_facts(const ModelFile& model) {
  const ModelConfig& config = model.config();
  Facts facts = {
      {"file", model.path().string()},
      {"architecture", config.architecture},
      {"layers", fmt::format("{}", config.num_layers)},
      {"hidden size", fmt::format("{}, MLP {}", config.hidden_size, config.intermediate_size)},
      {"heads", fmt::format("{} query, {} KV, head_dim {}", config.num_qo_heads,
                            config.num_kv_heads, config.head_dim)},
      {"context", with_separators(config.max_context)},
      {"positions", positions_text(config)},
      {"norms", norms_text(config)},
      {"biases", biases_text(config)}};
  if (const std::string text = windows_text(config); !text.empty())
    facts.emplace_back("windows", text);
  if (const std::string text = experts_text(config); !text.empty())
    facts.emplace_back("experts", text);
  if (const std::string text = simulation_text(config); !text.empty())
    facts.emplace_back("simulated", text);
  facts.emplace_back("embeddings",
                     fmt::format("{} tokens, {}", with_separators(config.vocab_size),
                                 config.tied_embeddings ? "tied to the head" : "own head"));
  facts.emplace_back("weights", human_bytes(model.weight_bytes()));
  if (const std::string text = quantization_text(model); !text.empty()) {
    facts.emplace_back("quantized", text);
    facts.emplace_back("source", model.source_fingerprint());
  }
  facts.emplace_back("fingerprint", model.fingerprint());
  return facts;
}

Facts tokenizer_facts(const ModelFile& model) {
  const TokenizerSpec& spec = model.tokenizer();
  const auto control =
      std::count(spec.token_kinds.begin(), spec.token_kinds.end(), TokenKind::kControl);
  const auto token = [&](int32_t id) {
    if (id < 0 || static_cast<size_t>(id) >= spec.tokens.size()) return std::string("none");
    return fmt::format("{} ({})", spec.tokens[static_cast<size_t>(id)], id);
  };
  Facts facts = {
      {"kind", std::string(tokenizer_kind(spec.kind))},
      {"tokens", fmt::format("{}, {} control",
                             with_separators(static_cast<int64_t>(spec.tokens.size())), control)},
      {"pre-tokenizer", spec.pre_tokenizer.empty() ? "none" : spec.pre_tokenizer},
      {"bos, eos", token(spec.bos) + ", " + token(spec.eos)},
      {"chat template", model.chat_template().empty()
                            ? "none"
                            : fmt::format("{} characters", with_separators(static_cast<int64_t>(
                                                               model.chat_template().size())))}};
  return facts;
}

}  // namespace

std::string inspect_model(const ModelFile& model, const InspectOptions& options,
                          const Terminal& terminal) {
  if (options.json)
    return model_json(model, options).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  const ModelConfig& config = model.config();
  const int64_t ctx = context_of(model, options);
  const char* format = model.format() == ModelFormat::kGguf ? "GGUF" : "Hugging Face folder";
  const std::string name = config.name.empty() ? model.path().filename().string() : config.name;
  std::string out =
      facts_text(fmt::format("{} ({})", name, format), architecture_facts(model), terminal);
  out += fmt::format("\n{}", facts_text("Tokenizer", tokenizer_facts(model), terminal));
  out += fmt::format("\n{}\n{}", paint(terminal, Ink::kBold, "Tensors"),
                     tensor_types_text(all_tensors(model), terminal));
  out += fmt::format("\n{}\n", paint(terminal, Ink::kBold,
                                     fmt::format("KV cache at {} tokens", with_separators(ctx))));
  out += kv_cost_text(costs_of(model, options), ctx, terminal);
  return out;
}

}  // namespace lowkey
