#pragma once
// The inspect verb: what a file holds, as text or JSON. Torch-free.
#include <string>

#include "load/model_file.h"
#include "recipe/recipe.h"
#include "terminal.h"
#include "verbs.h"

namespace lowkey {

// Everything the verb prints. Throws Error as the readers of the file do.
std::string inspect(const InspectOptions& options, const Terminal& terminal);

// Its parts, by what the path turns out to be (inspect_model.cc, inspect_recipe.cc,
// inspect_front.cc, inspect_file.cc, inspect_prefix.cc).
std::string inspect_model(const ModelFile& model, const InspectOptions& options,
                          const Terminal& terminal);
std::string inspect_recipe(const KvRecipe& recipe, const InspectOptions& options,
                           const Terminal& terminal);
// A front: its points, and the uniform recipes measured beside them.
std::string inspect_front(const InspectOptions& options, const Terminal& terminal);
// Metadata and tensors of a GGUF that is no model lowkey can run; `why_not` says why.
std::string inspect_gguf(const InspectOptions& options, const std::string& why_not,
                         const Terminal& terminal);
// A file of tensors, or of an intact prefix.
std::string inspect_safetensors(const InspectOptions& options, const Terminal& terminal);
// Its tokens (as text, with --model), what it was made for, how large its keys and values are.
std::string inspect_prefix(const InspectOptions& options, const Terminal& terminal);

}  // namespace lowkey
