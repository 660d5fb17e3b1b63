#include "weights/quantized_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/mapped_file.h"
#include "load/gguf.h"
#include "load/quantized_model.h"
#include "load/safetensors_writer.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

bool is_ours(const fs::path& name) {
  return name == kQuantizationFile || name == kQuantizedWeightsFile || name == kGgufHeaderFile ||
         std::find(kHfFiles.begin(), kHfFiles.end(), name) != kHfFiles.end();
}

// Written beside the folder and renamed into its place; gone if that does not happen.
class NewFolder {
 public:
  explicit NewFolder(fs::path folder) : folder_(std::move(folder)) {
    temporary_ = folder_;
    temporary_ += ".tmp" + std::to_string(::getpid());
    if (!fs::create_directories(temporary_))
      fail(ErrorCode::kIo, "{}: is there already", temporary_.string());
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  fs::path file(std::string_view name) const { return temporary_ / name; }

  void commit() {
    fs::path old;
    if (fs::exists(folder_)) {
      old = folder_;
      old += ".old" + std::to_string(::getpid());
      fs::rename(folder_, old);
    }
    fs::rename(temporary_, folder_);
    temporary_.clear();
    if (!old.empty()) fs::remove_all(old);
  }

 private:
  fs::path folder_, temporary_;
};

// What differs from the source's configuration.
Json changed_fields(const ModelConfig& from, const ModelConfig& to) {
  Json all = Json::object(), changed = Json::object();
  for_each_quantized_field(from, [&](const char* name, const auto& value) { all[name] = value; });
  for_each_quantized_field(to, [&](const char* name, const auto& value) {
    if (all[name] != Json(value)) changed[name] = value;
  });
  return changed;
}

std::string quantization_json(const ModelFile& source, const Quantization& done,
                              const FolderOptions& options) {
  const QuantizeOptions& how = done.options;
  Json json;
  json["lowkey_quantization"] = kQuantizationVersion;
  json["method"] = how.method;
  json["bits"] = how.grid.bits;
  json["group"] = how.grid.group;
  std::string name = source.config().name;
  if (name.empty()) name = source.path().filename().string();
  json["source"] = {{"name", name},
                    {"format", source.format() == ModelFormat::kGguf ? "gguf" : "huggingface"},
                    {"fingerprint", source.source_fingerprint()}};
  const Json changed = changed_fields(source.config(), done.model.config);
  if (!changed.empty()) json["config"] = changed;
  if (!how.samples.empty()) {
    json["calibration"] = {{"text", options.text},
                           {"samples", how.samples.size()},
                           {"context", options.context},
                           {"seed", how.seed}};
  }
  json["command"] = options.command;
  if (!done.notes.empty()) json["notes"] = done.notes;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// One tensor of the folder: the matrix in blocks, changed floats, or what the source holds.
class OutTensor {
 public:
  OutTensor(std::string name, const ModelFile& source, const Quantization& done)
      : name_(std::move(name)), floats_(done.model.find(name_)) {
    if (const auto at = done.blocks.find(name_); at != done.blocks.end()) {
      blocks_ = &at->second;
      return;
    }
    const TensorView* const stored = source.find_tensor(name_);
    // Elements of a vector that lie in another order are floats put in order.
    const bool as_stored =
        stored && (stored->shape.size() > 1 || stored->row_order == RowOrder::kAsStored);
    if (!floats_->changed && as_stored) stored_ = stored;
  }

  bool is_blocks() const { return dtype_block_elements(dtype()) > 1; }

  DType dtype() const {
    if (blocks_) return blocks_->dtype;
    return stored_ ? stored_->dtype : DType::kF32;
  }

  SafetensorsEntry entry() const {
    SafetensorsEntry entry{name_, dtype_name(dtype()), floats_->shape};
    if (!is_blocks()) return entry;
    entry.type = "U8";
    entry.shape.back() =
        entry.shape.back() / dtype_block_elements(dtype()) * dtype_block_bytes(dtype());
    return entry;
  }

  void write(SafetensorsWriter& writer) const {
    if (blocks_) {
      writer.write(blocks_->bytes);
    } else if (!stored_) {
      writer.write(std::as_bytes(std::span(floats_->values)));
    } else if (stored_->row_order == RowOrder::kAsStored) {
      writer.write(stored_->data);
    } else {
      const auto row_bytes = static_cast<size_t>(stored_->row_bytes());
      std::vector<std::byte> rows(static_cast<size_t>(stored_->rows()) * row_bytes);
      for (int64_t row = 0; row < stored_->rows(); ++row) {
        std::memcpy(
            rows.data() + static_cast<size_t>(row) * row_bytes,
            stored_->data.data() + static_cast<size_t>(stored_->stored_row(row)) * row_bytes,
            row_bytes);
      }
      writer.write(rows);
    }
  }

 private:
  std::string name_;
  const FloatTensor* floats_;
  const BlockMatrix* blocks_ = nullptr;
  const TensorView* stored_ = nullptr;
};

// Tensors that the configuration is read from; empty but for a GGUF.
std::vector<TensorView> config_tensors(const std::optional<GgufFile>& gguf) {
  std::vector<TensorView> tensors;
  if (!gguf) return tensors;
  for (const char* name :
       {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) {
    const TensorView* tensor = gguf->find_tensor(name);
    if (tensor && dtype_block_elements(tensor->dtype) == 1) tensors.push_back(*tensor);
  }
  return tensors;
}

void write_weights(const fs::path& path, const ModelFile& source, const Quantization& done,
                   const std::optional<GgufFile>& gguf, const ProgressFn& progress) {
  const std::vector<TensorView> of_config = config_tensors(gguf);
  std::vector<OutTensor> tensors;
  for (const auto& [name, tensor] : done.model.tensors()) tensors.emplace_back(name, source, done);
  // Blocks have odd sizes: behind the floats, which must lie aligned to be used in place.
  std::stable_partition(tensors.begin(), tensors.end(),
                        [](const OutTensor& tensor) { return !tensor.is_blocks(); });
  std::vector<SafetensorsEntry> entries;
  for (const TensorView& tensor : of_config) {
    entries.push_back(
        {std::string(kGgufTensorPrefix) + tensor.name, dtype_name(tensor.dtype), tensor.shape});
  }
  std::map<std::string, std::string> metadata;
  for (const OutTensor& tensor : tensors) {
    entries.push_back(tensor.entry());
    if (tensor.is_blocks())
      metadata[std::string(kDTypePrefix) + entries.back().name] = dtype_name(tensor.dtype());
  }
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (const TensorView& tensor : of_config) writer.write(tensor.data);
  int64_t written = 0;
  for (const OutTensor& tensor : tensors) {
    report(progress, "writing", written++, std::ssize(tensors));
    tensor.write(writer);
  }
  writer.finish();
}

void write_all(NewFolder& out, const ModelFile& source, const Quantization& done,
               const FolderOptions& options, const ProgressFn& progress) {
  std::optional<GgufFile> gguf;
  if (source.format() == ModelFormat::kGguf) {
    gguf.emplace(GgufFile::open(source.path()));
    const MappedFile map(source.path());
    const auto header = map.bytes().first(
        std::min<size_t>(map.bytes().size(), static_cast<size_t>(gguf->data_offset())));
    write_file_atomically(out.file(kGgufHeaderFile), {reinterpret_cast<const char*>(header.data()),
                                                      static_cast<size_t>(header.size())});
  } else {
    for (const char* name : kHfFiles) {
      if (fs::exists(source.path() / name)) fs::copy_file(source.path() / name, out.file(name));
    }
  }
  write_weights(out.file(kQuantizedWeightsFile), source, done, gguf, progress);
  // Last: a folder without it is no model.
  write_file_atomically(out.file(kQuantizationFile), quantization_json(source, done, options));
}

}  // namespace

void check_folder_is_free(const fs::path& folder, const FolderOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) return;
  if (error) fail(ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  if (!fs::is_directory(status) || !fs::exists(folder / kQuantizationFile)) {
    fail(ErrorCode::kInvalidArgument,
         "{}: is there already and was not written by lowkey quantize; name another folder",
         folder.string());
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (is_ours(entry.path().filename())) continue;
    fail(ErrorCode::kInvalidArgument,
         "{}: is there already and holds {}, which would be lost; name another folder",
         folder.string(), entry.path().filename().string());
  }
  if (!options.replace) {
    fail(ErrorCode::kInvalidArgument, "{}: is there already; --force replaces it", folder.string());
  }
}

void write_quantized_folder(const fs::path& folder, const ModelFile& source,
                            const Quantization& quantization, const FolderOptions& options,
                            const ProgressFn& progress) {
  check_folder_is_free(folder, options);
  try {
    NewFolder out(folder);
    write_all(out, source, quantization, options, progress);
    out.commit();
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::kIo, "{}", error.what());
  }
}

}  // namespace lowkey
