#include "load/model_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/sha256.h"
#include "load/families.h"
#include "load/model_file_impl.h"
#include "load/quantized_model.h"
#include "load/weight_names.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;

// People point at folders that hold a GGUF, or at one file of a Hugging Face folder: say what to
// open instead.
[[noreturn]] void fail_not_a_model(const fs::path& path) {
  if (!fs::is_directory(path)) {
    fail(ErrorCode::kUnsupported, "{}: not a .gguf file; for Hugging Face models name the folder",
         path.string());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".gguf") {
      fail(ErrorCode::kNotFound, "{}: a folder without config.json; did you mean {}?",
           path.string(), entry.path().string());
    }
  }
  fail(ErrorCode::kNotFound, "{}: a folder without config.json or a .gguf file", path.string());
}

void hash_tensor(const std::string& name, const TensorView& tensor, Sha256& hash) {
  hash.update(fmt::format("{} {} {} {}\n", name, dtype_name(tensor.dtype), shape_text(tensor.shape),
                          static_cast<int>(tensor.row_order)));
  if (tensor.row_order == RowOrder::kStrided)
    hash.update(fmt::format("{} of {}\n", tensor.group_rows, tensor.group_stride));
  // Both ends and two places between: 4 pages of each tensor are touched, not all of them.
  constexpr size_t kWindow = 64;
  const size_t last = tensor.data.size() > kWindow ? tensor.data.size() - kWindow : 0;
  for (size_t quarter : {0, 1, 2, 3}) {
    const auto window = tensor.data.subspan(last * quarter / 3);
    hash.update(window.first(std::min(kWindow, window.size())));
  }
}

uint64_t exact(double value) {
  return std::bit_cast<uint64_t>(value);
}

// What a plain Llama does not have, a line for each field that differs from it, so that fields to
// come change no fingerprint of today.
std::string variations_text(const ModelConfig& c) {
  const ModelConfig plain;
  std::string text;
  const auto number = [&](const char* name, auto value, auto usual) {
    if (value != usual) text += fmt::format("{} {}\n", name, value);
  };
  const auto real = [&](const char* name, double value, double usual) {
    if (value != usual) text += fmt::format("{} {:x}\n", name, exact(value));
  };
  const auto choice = [&](const char* name, auto value, auto usual) {
    number(name, static_cast<int>(value), static_cast<int>(usual));
  };
  const auto rope = [&](const std::string& name, const RopeConfig& r) {
    real((name + " attention_factor").c_str(), r.attention_factor, 1.0);
    real((name + " beta_fast").c_str(), r.beta_fast, 32.0);
    real((name + " beta_slow").c_str(), r.beta_slow, 1.0);
  };
  rope("rope", c.rope);
  if (c.local_rope.dim > 0) {
    const RopeConfig& r = c.local_rope;
    text += fmt::format("local rope {:x} dim {} scaling {} {:x} {:x} {:x} {}", exact(r.base), r.dim,
                        static_cast<int>(r.scaling), exact(r.factor), exact(r.low_freq_factor),
                        exact(r.high_freq_factor), r.original_context);
    for (float divisor : r.freq_divisors)
      text += fmt::format(" {:x}", std::bit_cast<uint32_t>(divisor));
    text += '\n';
    rope("local rope", r);
  }
  for (size_t i = 0; i < c.layers.size(); ++i) {
    const LayerConfig& layer = c.layers[i];
    if (layer.window == 0 && layer.rope == RopeUse::kMain && !layer.experts) continue;
    text += fmt::format("layer {} window {} rope {} experts {}\n", i, layer.window,
                        static_cast<int>(layer.rope), layer.experts);
  }
  choice("norm", c.norm, plain.norm);
  number("norm_bias", c.norm_bias, plain.norm_bias);
  number("norm_plus_one", c.norm_plus_one, plain.norm_plus_one);
  number("post_norms", c.post_norms, plain.post_norms);
  number("qk_norm", c.qk_norm, plain.qk_norm);
  number("parallel", c.parallel, plain.parallel);
  number("shared_norm", c.shared_norm, plain.shared_norm);
  number("gated_mlp", c.gated_mlp, plain.gated_mlp);
  choice("activation", c.activation, plain.activation);
  real("embedding_scale", c.embedding_scale, plain.embedding_scale);
  real("attention_scale", c.attention_scale, 1.0 / std::sqrt(c.head_dim));
  real("attention_softcap", c.attention_softcap, plain.attention_softcap);
  real("logit_softcap", c.logit_softcap, plain.logit_softcap);
  number("alibi", c.alibi, plain.alibi);
  number("learned_positions", c.learned_positions, plain.learned_positions);
  number("position_offset", c.position_offset, plain.position_offset);
  number("num_experts", c.num_experts, plain.num_experts);
  number("experts_per_token", c.experts_per_token, plain.experts_per_token);
  number("expert_intermediate_size", c.expert_intermediate_size, plain.expert_intermediate_size);
  number("normalize_expert_weights", c.normalize_expert_weights, plain.normalize_expert_weights);
  number("activation_bits", c.activation_bits, plain.activation_bits);
  number("activation_symmetric", c.activation_symmetric, plain.activation_symmetric);
  real("activation_clip", c.activation_clip, plain.activation_clip);
  number("hadamard_qk", c.hadamard_qk, plain.hadamard_qk);
  number("hadamard_v", c.hadamard_v, plain.hadamard_v);
  number("hadamard_down", c.hadamard_down, plain.hadamard_down);
  return text;
}

std::string config_text(const ModelConfig& c) {
  const RopeConfig& r = c.rope;
  std::string text = fmt::format(
      "lowkey model 1\n{} layers {} hidden {} ffn {} heads {}/{} of {} vocab {} context {} eps "
      "{:x} "
      "tied {} bias {} {} {}\nrope {:x} dim {} scaling {} {:x} {:x} {:x} {}",
      c.architecture, c.num_layers, c.hidden_size, c.intermediate_size, c.num_qo_heads,
      c.num_kv_heads, c.head_dim, c.vocab_size, c.max_context, exact(c.norm_eps), c.tied_embeddings,
      c.qkv_bias, c.attn_out_bias, c.mlp_bias, exact(r.base), r.dim, static_cast<int>(r.scaling),
      exact(r.factor), exact(r.low_freq_factor), exact(r.high_freq_factor), r.original_context);
  for (float divisor : r.freq_divisors)
    text += fmt::format(" {:x}", std::bit_cast<uint32_t>(divisor));
  return text + '\n' + variations_text(c);
}

}  // namespace

ModelFile::ModelFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelFile::ModelFile(ModelFile&&) noexcept = default;
ModelFile& ModelFile::operator=(ModelFile&&) noexcept = default;
ModelFile::~ModelFile() = default;

ModelFile ModelFile::open(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    fail(ErrorCode::kNotFound, "{}: no such file or folder", path.string());
  if (error) fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  if (fs::is_directory(status) && fs::exists(path / kQuantizationFile))
    return ModelFile(open_quantized_model(path));
  if (fs::is_directory(status) && fs::exists(path / "config.json"))
    return ModelFile(open_hf_model(path));
  if (fs::is_directory(status) || path.filename() == "config.json" ||
      path.extension() == ".safetensors") {
    fail_not_a_model(path);
  }
  return ModelFile(open_gguf_model(path));
}

ModelFormat ModelFile::format() const {
  return impl_->format;
}

const QuantizationInfo* ModelFile::quantization() const {
  return impl_->quantization ? &*impl_->quantization : nullptr;
}

const fs::path& ModelFile::path() const {
  return impl_->path;
}

const ModelConfig& ModelFile::config() const {
  return impl_->config;
}

const TokenizerSpec& ModelFile::tokenizer() const {
  return impl_->tokenizer;
}

const std::string& ModelFile::chat_template() const {
  return impl_->chat_template;
}

const GenerationDefaults& ModelFile::generation() const {
  return impl_->generation;
}

uint64_t ModelFile::weight_bytes() const {
  return impl_->weight_bytes;
}

const TensorView* ModelFile::find_tensor(std::string_view canonical) const {
  const auto at = impl_->tensors.find(canonical);
  return at == impl_->tensors.end() ? nullptr : &at->second;
}

const TensorView& ModelFile::tensor(std::string_view canonical) const {
  if (const TensorView* found = find_tensor(canonical)) return *found;
  fail(ErrorCode::kNotFound, "{}: this model has no weight '{}'", impl_->path.string(), canonical);
}

const std::vector<std::string>& ModelFile::tensor_names() const {
  return impl_->names;
}

std::string ModelFile::fingerprint() const {
  Sha256 hash;
  hash.update(config_text(impl_->config));
  for (const std::string& name : impl_->names) hash_tensor(name, impl_->tensors.at(name), hash);
  return to_hex(hash.finish());
}

std::string ModelFile::source_fingerprint() const {
  return impl_->source_fingerprint.empty() ? fingerprint() : impl_->source_fingerprint;
}

namespace {

// The weights that one tensor of the file holds, and what it must look like.
class FileTensor {
 public:
  FileTensor(const ModelFile::Impl& impl, std::vector<const WeightSpec*> parts)
      : impl_(impl), family_(*find_family(impl.config.architecture)), parts_(std::move(parts)) {
    shape_ = parts_.front()->shape;
    if (parts_.front()->stacked) {
      shape_.insert(shape_.begin(), static_cast<int64_t>(parts_.size()));
      return;
    }
    for (size_t i = 1; i < parts_.size(); ++i) shape_.front() += parts_[i]->shape.front();
  }

  const std::vector<int64_t>& shape() const { return shape_; }

  // Part `index` of `whole`, which has the shape().
  TensorView part(const TensorView& whole, size_t index) const {
    TensorView view = whole;
    const WeightSpec& spec = *parts_[index];
    if (spec.rotated && impl_.format == ModelFormat::kGguf && family_.interleaved_in_gguf) {
      view.row_order = RowOrder::kInterleavedHeads;
      view.head_rows = impl_.config.head_dim;
    }
    view.shape = spec.shape;
    if (parts_.size() == 1 || spec.stacked) {
      take_rows(view, static_cast<int64_t>(index) * view.rows(), view.rows());
      return view;
    }
    if (dtype_block_elements(view.dtype) > 1 && spec.shape.size() == 1) {
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is {}, of which no part can be taken",
           impl_.path.string(), whole.name, dtype_name(view.dtype));
    }
    if (family_.qkv_by_kv_head && impl_.format == ModelFormat::kHuggingFace) {
      take_heads(view, index);
      return view;
    }
    int64_t first = 0;
    for (size_t i = 0; i < index; ++i) first += parts_[i]->shape.front();
    take_rows(view, first, spec.shape.front());
    return view;
  }

 private:
  // What parts are counted in: rows, or the elements of a vector.
  static uint64_t unit_bytes(const TensorView& view) {
    return static_cast<uint64_t>(view.shape.size() > 1 ? view.row_bytes()
                                                       : dtype_block_bytes(view.dtype));
  }

  void take_rows(TensorView& view, int64_t first, int64_t count) const {
    if (parts_.size() == 1) return;
    view.data = view.data.subspan(static_cast<uint64_t>(first) * unit_bytes(view),
                                  static_cast<uint64_t>(count) * unit_bytes(view));
  }

  // Query heads, key and value of each key/value head after each other.
  void take_heads(TensorView& view, size_t index) const {
    const ModelConfig& config = impl_.config;
    const int64_t head = config.head_dim;
    const int64_t queries = config.num_qo_heads / config.num_kv_heads * head;
    const int64_t first = index == 0 ? 0 : queries + (index == 1 ? 0 : head);
    const int64_t rows = index == 0 ? queries : head;
    const int64_t stride = queries + 2 * head;
    take_rows(view, first, (config.num_kv_heads - 1) * stride + rows);
    if (config.num_kv_heads == 1) return;
    view.row_order = RowOrder::kStrided;
    view.group_rows = rows;
    view.group_stride = stride;
  }

  const ModelFile::Impl& impl_;
  const Family& family_;
  std::vector<const WeightSpec*> parts_;
  std::vector<int64_t> shape_;
};

}  // namespace

void bind_weights(ModelFile::Impl& impl, const std::map<std::string, const TensorView*>& in_file,
                  bool (*is_ignored)(const ModelConfig& config, std::string_view name)) {
  const std::vector<WeightSpec> specs = weight_specs(impl.config, impl.format);
  std::map<std::string_view, std::vector<const WeightSpec*>> parts;
  for (const WeightSpec& spec : specs) parts[spec.in_file].push_back(&spec);
  std::map<std::string, const TensorView*> left = in_file;
  for (const WeightSpec& spec : specs) {
    impl.names.push_back(spec.canonical);
    const std::vector<const WeightSpec*>& together = parts.at(spec.in_file);
    if (together.front() != &spec) continue;  // taken with the first
    const auto at = left.find(spec.in_file);
    if (at == left.end()) {
      fail(ErrorCode::kCorruptFile, "{}: tensor '{}' ({}) is missing", impl.path.string(),
           spec.in_file, spec.canonical);
    }
    const TensorView& whole = *at->second;
    left.erase(at);
    const FileTensor tensor(impl, together);
    if (whole.shape != tensor.shape()) {
      fail(ErrorCode::kCorruptFile,
           "{}: tensor '{}' has shape {}, but the configuration asks for {}", impl.path.string(),
           spec.in_file, shape_text(whole.shape), shape_text(tensor.shape()));
    }
    impl.weight_bytes += whole.data.size();
    for (size_t i = 0; i < together.size(); ++i)
      impl.tensors.emplace(together[i]->canonical, tensor.part(whole, i));
  }
  for (const auto& [name, view] : left) {
    if (!is_ignored(impl.config, name)) {
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' is no part of the {} architecture as it is known here",
           impl.path.string(), name, impl.config.architecture);
    }
  }
}

void validate_tokenizer(const ModelFile::Impl& impl) {
  const TokenizerSpec& spec = impl.tokenizer;
  const auto count = static_cast<int64_t>(spec.tokens.size());
  if (count == 0 || count > impl.config.vocab_size) {
    fail(ErrorCode::kCorruptFile, "{}: the tokenizer has {} tokens, the model's vocabulary {}",
         impl.path.string(), count, impl.config.vocab_size);
  }
  const auto check = [&](const char* what, int32_t id, int32_t lowest) {
    if (id < lowest || id >= count) {
      fail(ErrorCode::kCorruptFile, "{}: the {} token is {}, not one of the {} tokens",
           impl.path.string(), what, id, count);
    }
  };
  check("bos", spec.bos, -1);
  check("eos", spec.eos, -1);
  check("unknown", spec.unk, -1);
  check("padding", spec.pad, -1);
  for (int32_t id : spec.end_of_generation) check("end-of-generation", id, 0);
}

}  // namespace lowkey
