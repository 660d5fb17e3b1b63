// Any text as a chat template: an Error, or at most 4 MiB of prompt in which what messages brought
// is never passed off as the template's.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "load/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  // A private character; no template can write it but by copying it, spelling it, or escaping it.
  const std::string mark = "\uE123";
  const bool can_spell = source.find('\\') != source.npos || source.find(mark[0]) != source.npos;
  try {
    const lowkey::ChatTemplate chat_template(source, "<s>", "</s>");
    const auto prompt = chat_template.render(
        {{"system", mark + " be brief"}, {"user", " a" + mark + "=b\n"}, {"assistant", mark}}, true,
        std::chrono::sys_seconds(std::chrono::seconds(1751641766)));
    size_t total = 0;
    for (const lowkey::PromptPiece& piece : prompt) {
      total += piece.text.size();
      LOWKEY_CHECK(!piece.text.empty());
      LOWKEY_CHECK(can_spell || !piece.from_template || piece.text.find(mark) == piece.text.npos);
    }
    LOWKEY_CHECK(total <= size_t{4} << 20);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
