#pragma once
// lowkey eval --task: what each precision costs in right answers.
#include "verbs.h"

namespace lowkey {

// Requires options.task. Returns the exit code; throws Error.
int eval_task(const EvalOptions& options);

}  // namespace lowkey
