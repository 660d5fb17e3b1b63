#pragma once
// The plan verb: what a model needs with each recipe, and how much fits, before anything is loaded.
// Torch-free.
#include <string>

#include "terminal.h"
#include "verbs.h"

namespace lowkey {

// Everything the verb prints. Throws Error as ModelFile::open and resolve_recipe;
// kInvalidArgument for an unknown --arch.
std::string plan(const PlanOptions& options, const Terminal& terminal);

}  // namespace lowkey
