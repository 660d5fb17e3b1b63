#pragma once
// lowkey eval --choices: what each precision costs in right choices.
#include "verbs.h"

namespace lowkey {

// Requires options.choices. Returns the exit code; throws Error.
int eval_choices(const EvalOptions& options);

}  // namespace lowkey
