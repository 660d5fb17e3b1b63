#include "load/model_file.h"

#include <algorithm>
#include <array>
#include <bit>

#include "core/error.h"
#include "core/sha256.h"
#include "load/model_file_impl.h"
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
  // Both ends and two places between: 4 pages of each tensor are touched, not all of them.
  constexpr size_t kWindow = 64;
  const size_t last = tensor.data.size() > kWindow ? tensor.data.size() - kWindow : 0;
  for (size_t quarter : {0, 1, 2, 3}) {
    const auto window = tensor.data.subspan(last * quarter / 3);
    hash.update(window.first(std::min(kWindow, window.size())));
  }
}

std::string config_text(const ModelConfig& c) {
  const auto exact = [](double value) { return std::bit_cast<uint64_t>(value); };
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
  return text + '\n';
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

void bind_weights(ModelFile::Impl& impl, const std::map<std::string, const TensorView*>& in_file,
                  bool (*is_ignored)(const ModelConfig& config, std::string_view name)) {
  std::map<std::string, const TensorView*> left = in_file;
  for (const WeightSpec& spec : weight_specs(impl.config, impl.format)) {
    const auto at = left.find(spec.in_file);
    if (at == left.end()) {
      fail(ErrorCode::kCorruptFile, "{}: tensor '{}' ({}) is missing", impl.path.string(),
           spec.in_file, spec.canonical);
    }
    TensorView view = *at->second;
    left.erase(at);
    if (view.shape != spec.shape) {
      fail(ErrorCode::kCorruptFile,
           "{}: tensor '{}' has shape {}, but the configuration asks for {}", impl.path.string(),
           spec.in_file, shape_text(view.shape), shape_text(spec.shape));
    }
    if (spec.rotated && impl.format == ModelFormat::kGguf) {
      view.row_order = RowOrder::kInterleavedHeads;
      view.head_rows = impl.config.head_dim;
    }
    impl.weight_bytes += view.data.size();
    impl.names.push_back(spec.canonical);
    impl.tensors.emplace(spec.canonical, std::move(view));
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
