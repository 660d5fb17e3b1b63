#pragma once
// lowkey eval --mt-bench: answers for FastChat's judge.
#include "verbs.h"

namespace lowkey {

// Requires options.mt_bench and options.output. Returns the exit code; throws Error.
int eval_mt_bench(const EvalOptions& options);

}  // namespace lowkey
