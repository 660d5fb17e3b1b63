#include "load/end_of_generation.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace lowkey {

namespace {

constexpr std::array<std::string_view, 11> kEndings = {
    "<|eot_id|>",      "<|im_end|>",         "<|end|>", "<end_of_turn>",
    "<|endoftext|>",   "<|eom_id|>",         "<EOT>",   "<|end_of_text|>",
    "<|end_of_turn|>", "<end_of_utterance>", "</s>"};

}  // namespace

void complete_end_of_generation(TokenizerSpec& spec) {
  auto& ids = spec.end_of_generation;
  for (const AddedToken& token : spec.added) {
    const auto id = static_cast<size_t>(token.id);
    if (std::find(kEndings.begin(), kEndings.end(), spec.tokens[id]) != kEndings.end()) {
      ids.push_back(token.id);
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::erase(ids, -1);
}

}  // namespace lowkey
