// The folder that `lowkey quantize` wrote as a model: quantization.json, the source's configuration
// and tokenizer, weights under canonical names.
#include "load/quantized_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/checked.h"
#include "core/error.h"
#include "load/json.h"
#include "load/model_file_impl.h"
#include "load/printable.h"
#include "load/weight_names.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMaxBytes = uint64_t{4} << 20;
constexpr size_t kFingerprintDigits = 64;
constexpr int32_t kLowestBits = 2;
constexpr int32_t kMostBits = 8;
constexpr int32_t kFloatBits = 16;

// Every name of an object is one of those known: a later version may mean something by others.
void refuse_others(const Json& object, const JsonFields& fields,
                   std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    fail(ErrorCode::kUnsupported, "{}: '{}' is not known to this version of lowkey",
         fields.source_name(), is_printable(name) ? name : "(unprintable)");
  }
}

class QuantizationFile {
 public:
  explicit QuantizationFile(const fs::path& path)
      : json_(read_json_file(path, kMaxBytes)), top_(json_, path.string()) {
    const int64_t version = top_.need(top_.get_int("lowkey_quantization"), "lowkey_quantization");
    if (version != kQuantizationVersion) {
      fail(ErrorCode::kUnsupported, "{}: written as version {}; this lowkey reads version {}",
           path.string(), version, kQuantizationVersion);
    }
    refuse_others(json_, top_,
                  {"lowkey_quantization", "method", "bits", "group", "source", "config",
                   "calibration", "command", "notes"});
  }

  QuantizationInfo info() const {
    QuantizationInfo info;
    info.method = text(top_, "method");
    info.bits = bits_of(top_, "bits", number(top_, "bits", 0, INT32_MAX));
    info.group = number(top_, "group", 0, INT32_MAX);
    info.command = top_.has("command") ? text(top_, "command") : "";
    const JsonFields source = top_.need(top_.get_object("source"), "source");
    refuse_others(*top_.find("source"), source, {"name", "format", "fingerprint"});
    info.source = text(source, "name");
    if (const auto calibration = top_.get_object("calibration")) {
      refuse_others(*top_.find("calibration"), *calibration,
                    {"text", "samples", "context", "seed"});
      info.text = text(*calibration, "text");
      info.samples = number(*calibration, "samples", 0, INT32_MAX);
      info.context = number(*calibration, "context", 0, INT32_MAX);
    }
    if (const Json* notes = top_.find("notes")) {
      if (!notes->is_array()) corrupt(top_, "notes", "is not a list");
      for (const Json& note : *notes) {
        if (!note.is_string() || !is_printable(note.get<std::string>()))
          corrupt(top_, "notes", "has an entry that is not printable text");
        info.notes.push_back(note.get<std::string>());
      }
    }
    return info;
  }

  ModelFormat format() const {
    const JsonFields source = top_.need(top_.get_object("source"), "source");
    const std::string name = text(source, "format");
    if (name == "gguf") return ModelFormat::kGguf;
    if (name == "huggingface") return ModelFormat::kHuggingFace;
    corrupt(source, "format", "is neither 'gguf' nor 'huggingface'");
  }

  std::string fingerprint() const {
    const JsonFields source = top_.need(top_.get_object("source"), "source");
    std::string digits = source.need(source.get_string("fingerprint"), "fingerprint");
    const bool hex = std::all_of(digits.begin(), digits.end(), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    });
    if (digits.size() != kFingerprintDigits || !hex)
      corrupt(source, "fingerprint", "is not 64 hexadecimal digits");
    return digits;
  }

  // Puts what differs from the source's configuration into it.
  void apply(ModelConfig& config) const {
    const auto fields = top_.get_object("config");
    if (!fields) return;
    const Json& object = *top_.find("config");
    size_t known = 0;
    for_each_quantized_field(config, [&](const char* name, auto& value) {
      using Field = std::remove_reference_t<decltype(value)>;
      known += object.contains(name);
      if (!fields->has(name)) return;
      if constexpr (std::is_same_v<Field, bool>) {
        value = *fields->get_bool(name);
      } else if constexpr (std::is_same_v<Field, double>) {
        value = *fields->get_float(name);
      } else {
        value = number(*fields, name, INT32_MIN, INT32_MAX);
      }
    });
    if (known != object.size()) {
      fail(ErrorCode::kUnsupported,
           "{}: 'config' has a field that is not known to this version of lowkey",
           top_.source_name());
    }
    check(config, *fields);
  }

 private:
  [[noreturn]] static void corrupt(const JsonFields& fields, std::string_view name,
                                   std::string_view why) {
    fail(ErrorCode::kCorruptFile, "{} {}", fields.describe(name), why);
  }

  static std::string text(const JsonFields& fields, std::string_view name) {
    std::string value = fields.need(fields.get_string(name), name);
    if (!is_printable(value)) corrupt(fields, name, "is not printable");
    return value;
  }

  static int32_t number(const JsonFields& fields, std::string_view name, int64_t least,
                        int64_t most) {
    const int64_t value = fields.need(fields.get_int(name), name);
    if (value < least || value > most)
      corrupt(fields, name, fmt::format("is {}, not between {} and {}", value, least, most));
    return static_cast<int32_t>(value);
  }

  // Of weights or activations; 16: they are not rounded.
  static int32_t bits_of(const JsonFields& fields, const char* name, int32_t bits) {
    if (bits != kFloatBits && (bits < kLowestBits || bits > kMostBits)) {
      corrupt(fields, name,
              fmt::format("is {}, not {} to {}, or {}", bits, kLowestBits, kMostBits, kFloatBits));
    }
    return bits;
  }

  // What no model can be run with.
  static void check(const ModelConfig& config, const JsonFields& fields) {
    bits_of(fields, "activation_bits", config.activation_bits);
    if (!std::isfinite(config.activation_clip) || config.activation_clip <= 0.0 ||
        config.activation_clip > 1.0) {
      corrupt(fields, "activation_clip",
              fmt::format("is {}, not above 0 and at most 1", config.activation_clip));
    }
    const bool heads = std::has_single_bit(static_cast<uint32_t>(config.head_dim));
    if ((config.hadamard_qk || config.hadamard_v) && !heads) {
      corrupt(fields, config.hadamard_qk ? "hadamard_qk" : "hadamard_v",
              fmt::format("is asked for, but head_dim {} is no power of two", config.head_dim));
    }
  }

  Json json_;
  JsonFields top_;
};

DType dtype_of(std::string_view name, const SafetensorsFile& file, const std::string& tensor) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype_name(dtype) == name && dtype_block_elements(dtype) > 1) return dtype;
  }
  fail(ErrorCode::kUnsupported, "{}: tensor '{}' has type '{}', which is no type of blocks here",
       file.source_name(), tensor, is_printable(name) ? name : "(unprintable)");
}

// The U8 tensors as the blocks that the metadata says they are.
std::vector<TensorView> block_tensors(const SafetensorsFile& file) {
  std::vector<TensorView> tensors;
  for (const TensorView& bytes : file.byte_tensors()) {
    const auto named = file.metadata().find(std::string(kDTypePrefix) + bytes.name);
    if (named == file.metadata().end()) {
      fail(ErrorCode::kCorruptFile, "{}: the metadata does not say of what type '{}' is",
           file.source_name(), bytes.name);
    }
    TensorView tensor = bytes;
    tensor.dtype = dtype_of(named->second, file, bytes.name);
    const int64_t block = dtype_block_bytes(tensor.dtype);
    if (tensor.shape.empty() || tensor.shape.back() % block != 0) {
      fail(ErrorCode::kCorruptFile, "{}: tensor '{}' of shape {} does not hold whole {} blocks",
           file.source_name(), bytes.name, shape_text(bytes.shape), named->second);
    }
    const std::string where = fmt::format("{}: tensor '{}'", file.source_name(), bytes.name);
    tensor.shape.back() = checked_cast<int64_t>(
        checked_mul(static_cast<uint64_t>(tensor.shape.back() / block),
                    static_cast<uint64_t>(dtype_block_elements(tensor.dtype)), where.c_str()),
        where.c_str());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void bind_canonical(const SafetensorsFile& file, ModelFile::Impl& impl) {
  std::vector<TensorView> tensors = file.tensors();
  std::erase_if(
      tensors, [](const TensorView& tensor) { return tensor.name.starts_with(kGgufTensorPrefix); });
  for (TensorView& tensor : block_tensors(file)) tensors.push_back(std::move(tensor));
  for (const auto& [name, type] : file.other_types()) {
    if (type != "U8") {
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' has type {}, which is not read (F32 F16 BF16 and U8 are)",
           file.source_name(), name, type);
    }
  }
  std::map<std::string, TensorView*, std::less<>> by_name;
  for (TensorView& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  for (const WeightSpec& spec : weight_specs(impl.config, impl.format)) {
    const auto at = by_name.find(spec.canonical);
    if (at == by_name.end())
      fail(ErrorCode::kCorruptFile, "{}: tensor '{}' is missing", file.source_name(),
           spec.canonical);
    TensorView& tensor = *at->second;
    by_name.erase(at);
    if (tensor.shape != spec.shape) {
      fail(ErrorCode::kCorruptFile,
           "{}: tensor '{}' has shape {}, but the configuration asks for {}", file.source_name(),
           spec.canonical, shape_text(tensor.shape), shape_text(spec.shape));
    }
    impl.weight_bytes += tensor.data.size();
    impl.names.push_back(spec.canonical);
    impl.tensors.emplace(spec.canonical, std::move(tensor));
  }
  if (!by_name.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor '{}' is no part of the {} architecture as it is known here",
         file.source_name(), by_name.begin()->first, impl.config.architecture);
  }
}

}  // namespace

std::unique_ptr<ModelFile::Impl> open_quantized_model(const fs::path& folder) {
  auto impl = std::make_unique<ModelFile::Impl>();
  impl->path = folder;
  const QuantizationFile said(folder / kQuantizationFile);
  impl->shards.push_back(SafetensorsFile::open(folder / kQuantizedWeightsFile));
  const SafetensorsFile& file = impl->shards.front();
  if (said.format() == ModelFormat::kHuggingFace) {
    read_hf_config(folder, *impl);
    read_hf_text(folder, *impl);
  } else {
    impl->gguf = std::make_unique<GgufFile>(GgufFile::open_header(folder / kGgufHeaderFile));
    for (const TensorView& tensor : file.tensors()) {
      if (!tensor.name.starts_with(kGgufTensorPrefix)) continue;
      const std::string_view name = std::string_view(tensor.name).substr(kGgufTensorPrefix.size());
      if (!impl->gguf->give_data(name, tensor.data)) {
        fail(ErrorCode::kCorruptFile, "{}: tensor '{}' is not one of {}", file.source_name(),
             tensor.name, impl->gguf->source_name());
      }
    }
    read_gguf_front(*impl->gguf, *impl);
  }
  said.apply(impl->config);
  impl->quantization = said.info();
  impl->source_fingerprint = said.fingerprint();
  bind_canonical(file, *impl);
  validate_tokenizer(*impl);
  return impl;
}

}  // namespace lowkey
