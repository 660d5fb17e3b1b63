#pragma once
// lowkey probe --pivots: which tokens must stay exact, and what an exact prefix saves.
#include "verbs.h"

namespace lowkey {

// Requires options.pivots. Returns the exit code; throws Error.
int probe_pivots(const ProbeVerbOptions& options);

}  // namespace lowkey
