#pragma once
// The convert verb: recipes of other projects into ours and back. Torch-free.
#include <string>

#include "verbs.h"

namespace lowkey {

// Writes options.output and returns what is said about it; without an output, the recipe's JSON.
// Throws Error as the readers and writers of the formats; kInvalidArgument where options do not fit
// the input or the output's ending is not .json, .yaml or .yml.
std::string convert(const ConvertOptions& options);

}  // namespace lowkey
