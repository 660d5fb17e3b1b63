#pragma once
// What a model is asked when nobody brings calibration text: conversations in which an early error
// comes back later. Torch-free, pure: the same scripts for the same seed on every machine.
#include <cstdint>
#include <string>
#include <vector>

namespace lowkey::tune {

enum class ScriptKind : uint8_t {
  kArithmetic,  // worked step by step, each turn continuing from the last result
  kDialogue,    // several turns on one subject, later ones about what was said before
  kRetrieval,   // a list, then questions about entries of it
  kProse,       // plain text without a chat around it, continued from its first words
};
// Scripts come in this order, again and again: half of them prose, which is what most text is.
inline constexpr int32_t kScriptCycle = 6;
const char* script_kind_name(ScriptKind kind);

struct Script {
  std::string name = {};  // "arithmetic 2"
  ScriptKind kind = ScriptKind::kArithmetic;
  std::vector<std::string> user_turns = {};  // of prose: its first words
  int64_t max_answer_tokens = 0;             // of each turn
};

// Kinds take turns, so that any few scripts in a row hold all of them.
std::vector<Script> calibration_scripts(uint64_t seed, int32_t count);

}  // namespace lowkey::tune
