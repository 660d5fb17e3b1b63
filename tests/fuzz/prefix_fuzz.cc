// Files of intact prefixes: refused with lowkey::Error, or a prefix whose parts agree.
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "engine/prefix_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const lowkey::PrefixFile file = lowkey::parse_prefix(bytes, "fuzz.safetensors");
    const lowkey::IntactPrefix& prefix = *file.prefix;
    const auto numbers = static_cast<size_t>(prefix.offset(prefix.num_layers, 0));
    LOWKEY_CHECK(prefix.length() > 0 && numbers > 0);
    LOWKEY_CHECK(prefix.k.size() == numbers && prefix.v.size() == numbers, "{} and {} of {}",
                 prefix.k.size(), prefix.v.size(), numbers);
    LOWKEY_CHECK(!prefix.hidden.empty());
    LOWKEY_CHECK(prefix.begins(prefix.tokens));
    lowkey::ModelConfig rotated;
    rotated.head_dim = prefix.head_dim;
    rotated.hadamard_qk = true;
    const auto turned = lowkey::prefix_for(file.prefix, rotated);
    LOWKEY_CHECK(turned->k.size() == numbers);
  } catch (const lowkey::Error&) {
  }
  return 0;
}
