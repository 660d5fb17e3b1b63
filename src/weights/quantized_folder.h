#pragma once
// Writes the folder that `lowkey quantize` leaves and ModelFile::open takes:
// docs/formats/weights.md. Torch-free.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "core/progress.h"
#include "load/model_file.h"
#include "weights/method.h"

namespace lowkey {

struct FolderOptions {
  bool replace = false;      // a folder of an earlier run may be in the way
  std::string command = "";  // what was typed, for the record
  std::string text = "";     // the calibration text's name; empty: none
  int64_t context = 0;       // tokens of each sample
};

// Throws Error kInvalidArgument if `folder` is there already and is no quantized folder, or is one
// and may not be replaced: before any work is done.
void check_folder_is_free(const std::filesystem::path& folder, const FolderOptions& options);

// All at once: what is written goes to a folder beside it, which is renamed. `source` is what
// quantization.model was made from. Throws Error kIo.
void write_quantized_folder(const std::filesystem::path& folder, const ModelFile& source,
                            const Quantization& quantization, const FolderOptions& options,
                            const ProgressFn& progress);

}  // namespace lowkey
