#pragma once
// Numbers as people read and write them.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lowkey {

std::string human_bytes(uint64_t bytes);      // "640 B", "1.50 KiB", "97.6 MiB", "12.0 GiB"
std::string human_duration(double seconds);   // "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"
std::string with_separators(int64_t number);  // "1,234,567"

// "4096", "32k" (32 * 1024), "1m": token counts. Nothing if it is not one, or beyond int64.
std::optional<int64_t> parse_count(std::string_view text);

// "16GiB", "512m", "1.5g" (1024 each step, as the tools of Unix mean it), "80GB" (1000 each step),
// "4096": bytes. Nothing if it is not one, or beyond int64.
std::optional<int64_t> parse_bytes(std::string_view text);

}  // namespace lowkey
