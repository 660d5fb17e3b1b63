// What a query sees: the closed forms of DESIGN §4 applied to one step.
#include <algorithm>

#include "cache/kv_cache.h"
#include "recipe/bytes.h"

namespace lowkey {

int64_t LayerView::stored_for(const SideView& side, int64_t query_position) const {
  const int64_t before = query_position - intact_prefix;  // tokens of the cache proper before it
  if (before < 0) return 0;
  if (side.window == SideWindow::kNone) return before + 1;
  // `exact` freezes the picture at the start of the step: the prompt attends to unquantized K and
  // V.
  const int64_t tokens = prefill == PrefillMode::kExact ? position - intact_prefix : before;
  return stored_tokens(side.window, residual_length, std::max<int64_t>(0, tokens));
}

}  // namespace lowkey
