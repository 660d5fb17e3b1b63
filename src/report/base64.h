#pragma once
// Bytes as text (RFC 4648, with padding). Torch-free, pure.
#include <string>
#include <string_view>

namespace lowkey {

std::string base64(std::string_view bytes);

}  // namespace lowkey
