#pragma once
// plan --front: which point of a front to use for a memory, and where its bytes are. Torch-free.
#include <string>

#include "planned_model.h"

namespace lowkey {

// options.front and options.memory are set. The point that loses least (least_loss) among those
// whose weights, cache and workspace fit; if none does, how much the smallest leaves room for.
// Throws Error as read_front and resolve_recipe.
std::string plan_front(const PlannedModel& model, const PlanOptions& options,
                       const Terminal& terminal);

}  // namespace lowkey
