#pragma once
// Runs a prefix through the 16-bit model and keeps its keys and values: IntactKV (arXiv 2403.01241,
// §3.2).
#include <cstdint>
#include <span>

#include "core/progress.h"
#include "engine/prefix_file.h"
#include "model/model.h"

namespace lowkey {

// The keys and values of `ids` at positions 0, 1, ..., from one pass on a 16-bit cache, and the
// hidden state after the last. `model` is `file`'s; name and command are the caller's to fill in.
// Throws Error kInvalidArgument for no ids, or a model whose weights `lowkey quantize` rounded (the
// 16-bit one makes its prefixes); as Model::forward.
PrefixFile make_prefix(Model& model, const ModelFile& file, std::span<const int32_t> ids,
                       const ProgressFn& progress = {});

}  // namespace lowkey
