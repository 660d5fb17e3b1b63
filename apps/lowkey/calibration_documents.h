#pragma once
// What probe, tune and calibrate work on when nobody brings a text: conversations that the model
// has with itself (tune/prompts.h).
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "tune/calibration.h"
#include "tune/journal.h"

namespace lowkey {

// Answers scripts until both sets have `tokens` scored tokens. Loads the model by itself, with the
// weights that decode fastest: the same numbers, and each token reads them all.
std::vector<tune::Conversation> hold_conversations(const std::string& model, int threads,
                                                   const std::vector<tune::Script>& scripts,
                                                   int64_t tokens, int64_t ctx, uint64_t seed,
                                                   const ProgressFn& progress);

// More than anybody needs: hold_conversations() stops early.
std::vector<tune::Script> usual_scripts(uint64_t seed);

// From the journal, or as `hold` holds them, and then put there: they need not be held again when
// work is resumed.
std::vector<tune::Conversation> remembered_conversations(
    tune::Journal& journal, const std::function<std::vector<tune::Conversation>()>& hold);

}  // namespace lowkey
