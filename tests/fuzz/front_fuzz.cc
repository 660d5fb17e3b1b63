// A front: reading it either throws lowkey::Error or yields one that survives writing, byte for
// byte, whose points can be named and found again, and whose recipes parse. The first byte is how
// many bytes follow as the reference's part behind "@"; the rest is the file.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "recipe/front.h"
#include "recipe/json_node.h"

namespace {

void check(const lowkey::Front& front) {
  const std::string json = lowkey::front_to_json(front);
  LOWKEY_CHECK(lowkey::front_from_json(json, "fuzz") == front);
  for (const lowkey::FrontPoint& point : front.points) {
    lowkey::recipe_of(point, front);
    const std::string text = lowkey::reference_to("f.json", front, point);
    const auto reference = lowkey::parse_front_reference(text);
    LOWKEY_CHECK(reference && reference->file == "f.json", "{}", text);
    const lowkey::FrontPoint* within = lowkey::point_within(front, point.code_bits);
    LOWKEY_CHECK(within && within->code_bits == point.code_bits, "{}", text);
  }
  for (const auto quality :
       {lowkey::Quality::kLossless, lowkey::Quality::kBalanced, lowkey::Quality::kCompact}) {
    lowkey::point_for(front, quality);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string_view which = text.substr(0, data[0] % 16);
  lowkey::parse_front_reference("f.json@" + std::string(which));
  const std::string_view json = text.substr(which.size());
  const lowkey::JsonFormat format = lowkey::json_format(json);
  try {
    const lowkey::Front front = lowkey::front_from_json(json, "fuzz");
    LOWKEY_CHECK(format == lowkey::JsonFormat::kFront);
    check(front);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
