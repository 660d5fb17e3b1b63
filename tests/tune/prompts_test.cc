#include "tune/prompts.h"

#include <gtest/gtest.h>

#include <set>

namespace lowkey::tune {
namespace {

TEST(CalibrationScripts, AreTheSameForASeedAndNoTwoAlike) {
  const auto a = calibration_scripts(7, 300), b = calibration_scripts(7, 300),
             other = calibration_scripts(8, 300);
  ASSERT_EQ(a.size(), 300u);
  std::set<std::vector<std::string>> seen;
  int same_as_other = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].user_turns, b[i].user_turns);
    same_as_other += a[i].user_turns == other[i].user_turns;
    const bool may_repeat = a[i].kind == ScriptKind::kDialogue || a[i].kind == ScriptKind::kProse;
    EXPECT_TRUE(seen.insert(a[i].user_turns).second || may_repeat) << a[i].name;
    EXPECT_EQ(a[i].kind, a[i % kScriptCycle].kind);
    EXPECT_GE(a[i].user_turns.size(), a[i].kind == ScriptKind::kProse ? 1u : 2u);
    EXPECT_GT(a[i].max_answer_tokens, 0);
  }
  EXPECT_LT(same_as_other, 40);
}

TEST(CalibrationScripts, RetrievalAsksForWhatIsInTheList) {
  for (const Script& script : calibration_scripts(3, 60)) {
    if (script.kind != ScriptKind::kRetrieval) continue;
    // "amber bridge: 1234", each name once.
    std::set<std::string> names;
    const std::string& list = script.user_turns[0];
    for (size_t at = list.find('\n'); at != std::string::npos;) {
      const size_t end = list.find('\n', at + 1);
      const std::string line = list.substr(at + 1, end == std::string::npos ? end : end - at - 1);
      const size_t colon = line.find(": ");
      if (colon != std::string::npos && end != std::string::npos) {
        EXPECT_TRUE(names.insert(line.substr(0, colon)).second) << line;
      }
      at = end;
    }
    EXPECT_GE(names.size(), 16u);
    int asked = 0;
    for (const std::string& name : names) {
      asked += script.user_turns[1].find(name) != std::string::npos;
    }
    EXPECT_GE(asked, 1);
    EXPECT_LE(asked, 3);
  }
}

}  // namespace
}  // namespace lowkey::tune
