#include "tune/prompts.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

#include "core/rng.h"

namespace lowkey::tune {
namespace {

template <typename T, size_t N>
const T& pick(const std::array<T, N>& list, SplitMix64& rng) {
  return list[rng.below(N)];
}

int between(int least, int most, SplitMix64& rng) {
  const auto choices = static_cast<uint64_t>(most - least) + 1;
  return least + static_cast<int>(rng.below(choices));
}

constexpr std::array<std::string_view, 12> kPeople = {
    "Ana", "Bao", "Chidi", "Dana", "Emeka", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena"};
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kGoods = {{
    {"apples", "basket"},
    {"pencils", "box"},
    {"tickets", "booklet"},
    {"bricks", "pallet"},
    {"stamps", "sheet"},
    {"eggs", "tray"},
    {"cables", "reel"},
    {"tiles", "crate"},
    {"letters", "sack"},
    {"seedlings", "tray"},
}};

Script arithmetic(SplitMix64& rng) {
  const std::string_view who = pick(kPeople, rng);
  const auto& [goods, container] = pick(kGoods, rng);
  const int each = between(6, 24, rng), containers = between(3, 9, rng);
  const int given = between(5, 20, rng), price = between(2, 9, rng);
  Script script{.kind = ScriptKind::kArithmetic, .max_answer_tokens = 110};
  script.user_turns = {
      fmt::format("{} has {} {}s with {} {} in each. {} gives {} {} away. How many {} are left? "
                  "Write every step on a line of its own and end with the result.",
                  who, containers, container, each, goods, who, given, goods, goods),
      fmt::format(
          "Now {} sells the rest at {} coins a piece. How many coins is that? Again step by "
          "step, starting from your last result.",
          who, price),
      fmt::format("Then half of the coins go to {}. Check all steps from the beginning and say how "
                  "many coins each of them has.",
                  pick(kPeople, rng)),
  };
  return script;
}

constexpr std::array<std::string_view, 24> kSubjects = {
    "how bread rises",
    "why leaves change colour in autumn",
    "planning a small vegetable garden",
    "how a bill becomes a law",
    "the water cycle",
    "learning to play the violin as an adult",
    "how a refrigerator keeps food cold",
    "the causes of the First World War",
    "writing a letter of complaint to a landlord",
    "how vaccines work",
    "a weekend trip to a town by the sea",
    "the difference between weather and climate",
    "saving money as a student",
    "how bees make honey",
    "sorting a list of numbers with a program",
    "the life of a star",
    "preparing for a job interview",
    "how ships float",
    "a short story about a lost key",
    "keeping a bicycle in good repair",
    "how the heart pumps blood",
    "choosing a book for a friend",
    "the history of paper",
    "what to do when the power goes out",
};

Script dialogue(int32_t number, SplitMix64& rng) {
  const std::string_view subject = kSubjects[static_cast<size_t>(number) % kSubjects.size()];
  constexpr std::array<std::string_view, 4> kReaders = {"a child of ten", "a busy neighbour",
                                                        "somebody who knows nothing about it",
                                                        "a curious engineer"};
  constexpr std::array<std::string_view, 4> kSecond = {
      "Which of your points matters most, and why?",
      "Give an example for each thing you said.",
      "What did you leave out? Add it.",
      "Somebody disagrees with you. What would they say?",
  };
  Script script{.kind = ScriptKind::kDialogue, .max_answer_tokens = 110};
  script.user_turns = {
      fmt::format("Explain {} to {}, in a short paragraph.", subject, pick(kReaders, rng)),
      std::string(pick(kSecond, rng)),
      "Now put everything you have told me so far into five numbered points, using your own words "
      "from above.",
  };
  return script;
}

Script prose(SplitMix64& rng) {
  constexpr std::array<std::string_view, 24> kOpenings = {
      "The river rises in the hills north of the old town and",
      "In the spring of the following year, the company announced that",
      "She had not seen the house since she was a child, and",
      "The species was first described by a naturalist who",
      "After the battle, the surviving ships were",
      "The album was recorded in three weeks and released in",
      "To repair a leaking tap, first turn off the water and",
      "The city council voted last night to",
      "Although the method is simple, its results depend on",
      "The bridge was built between",
      "He was born the second of five children to",
      "Scientists have long known that the surface of the planet",
      "The season began badly for the club, which",
      "In mathematics, a sequence is said to converge when",
      "The recipe has hardly changed since",
      "When the train finally stopped, the passengers",
      "The law, which came into force in",
      "Critics praised the novel for its",
      "The storm formed over the warm waters of",
      "Most of the islands are uninhabited, but",
      "The first version of the program could only",
      "According to the legend, the king",
      "Farmers in the valley have grown",
      "The painting shows a woman who"};
  Script script{.kind = ScriptKind::kProse, .max_answer_tokens = 400};
  script.user_turns = {std::string(pick(kOpenings, rng))};
  return script;
}

Script retrieval(SplitMix64& rng) {
  constexpr std::array<std::string_view, 16> kFirst = {
      "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron",
      "iris",  "jade",  "koala", "lotus", "maple", "nova",  "otter", "pearl"};
  constexpr std::array<std::string_view, 12> kSecond = {"bridge", "castle", "door",   "engine",
                                                        "field",  "gate",   "harbor", "island",
                                                        "kettle", "lamp",   "mill",   "tower"};
  const int entries = between(16, 28, rng);
  std::vector<std::string> names;
  std::string list = "Here is a list of rooms and their codes.\n";
  for (int i = 0; i < entries; ++i) {
    // Of 192 pairs of words, in steps of four: no pair twice.
    const size_t pair = static_cast<size_t>(i) * 4 + rng.below(4);
    std::string name = fmt::format("{} {}", kFirst[pair % 16], kSecond[pair / 16]);
    list += fmt::format("{}: {}\n", name, between(1000, 9999, rng));
    names.push_back(std::move(name));
  }
  const auto any = [&] { return names[rng.below(names.size())]; };
  Script script{.kind = ScriptKind::kRetrieval, .max_answer_tokens = 70};
  script.user_turns = {
      list + fmt::format("What is the code of the {}? And of the {}?", any(), any()),
      fmt::format("Which codes do the {}, the {} and the {} have? Copy their lines.", any(), any(),
                  any()),
      "Which room comes first in the list, and which comes last?",
  };
  return script;
}

}  // namespace

const char* script_kind_name(ScriptKind kind) {
  switch (kind) {
    case ScriptKind::kArithmetic: return "arithmetic";
    case ScriptKind::kDialogue: return "dialogue";
    case ScriptKind::kRetrieval: return "retrieval";
    case ScriptKind::kProse: return "prose";
  }
  return "unknown";
}

std::vector<Script> calibration_scripts(uint64_t seed, int32_t count) {
  SplitMix64 rng(seed);
  std::vector<Script> scripts;
  for (int32_t i = 0; i < count; ++i) {
    constexpr std::array<ScriptKind, kScriptCycle> kOrder = {
        ScriptKind::kProse,    ScriptKind::kArithmetic, ScriptKind::kProse,
        ScriptKind::kDialogue, ScriptKind::kProse,      ScriptKind::kRetrieval};
    const int32_t number = i / kScriptCycle;
    Script script;
    switch (kOrder[static_cast<size_t>(i % kScriptCycle)]) {
      case ScriptKind::kArithmetic: script = arithmetic(rng); break;
      case ScriptKind::kDialogue: script = dialogue(number, rng); break;
      case ScriptKind::kRetrieval: script = retrieval(rng); break;
      case ScriptKind::kProse: script = prose(rng); break;
    }
    script.name = fmt::format("{} {}", script_kind_name(script.kind), i + 1);
    scripts.push_back(std::move(script));
  }
  return scripts;
}

}  // namespace lowkey::tune
