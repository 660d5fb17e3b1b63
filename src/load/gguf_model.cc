// A GGUF file as a model: metadata under llama.cpp's keys, tensors under its names.
#include <algorithm>

#include "core/error.h"
#include "load/gguf_config.h"
#include "load/model_file_impl.h"
#include "load/tokenizer_from_file.h"

namespace lowkey {
namespace {

GenerationDefaults read_generation(const GgufFile& file) {
  GenerationDefaults defaults;
  const auto number = [&](const char* name, std::optional<double>& out) {
    if (file.find(name)) out = file.get_float(name);
  };
  number("general.sampling.temp", defaults.temperature);
  number("general.sampling.top_p", defaults.top_p);
  number("general.sampling.min_p", defaults.min_p);
  if (file.find("general.sampling.top_k")) {
    defaults.top_k = static_cast<int32_t>(
        std::clamp<int64_t>(file.get_int("general.sampling.top_k"), 0, INT32_MAX));
  }
  return defaults;
}

bool is_ignored(const ModelConfig&, std::string_view name) {
  // Read with the rope, or a rope's that is never used: the context ends before.
  return name == "rope_freqs.weight" || name == "rope_factors_short.weight" ||
         name == "rope_factors_long.weight";
}

}  // namespace

void read_gguf_front(const GgufFile& file, ModelFile::Impl& impl) {
  impl.format = ModelFormat::kGguf;
  impl.tokenizer = tokenizer_spec_from_gguf(file);
  impl.config = read_gguf_config(file);
  impl.generation = read_generation(file);
  impl.chat_template = file.get_string("tokenizer.chat_template", "");
}

std::unique_ptr<ModelFile::Impl> open_gguf_model(const std::filesystem::path& path) {
  auto impl = std::make_unique<ModelFile::Impl>();
  impl->path = path;
  impl->gguf = std::make_unique<GgufFile>(GgufFile::open(path));
  const GgufFile& file = *impl->gguf;
  read_gguf_front(file, *impl);
  std::map<std::string, const TensorView*> in_file;
  for (const TensorView& tensor : file.tensors()) in_file.emplace(tensor.name, &tensor);
  bind_weights(*impl, in_file, is_ignored);
  validate_tokenizer(*impl);
  return impl;
}

}  // namespace lowkey
