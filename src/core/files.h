#pragma once
// Whole-file reading and all-or-nothing writing.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace lowkey {

// Throws Error kNotFound / kIo naming the path, kResourceExhausted if it is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes = uint64_t{1} << 30);

// Writes a temporary file beside `path`, syncs it, renames it into place, syncs the folder: readers
// see the old file or the new one, never half of either. Throws Error kIo.
void write_file_atomically(const std::filesystem::path& path, std::string_view contents);

}  // namespace lowkey
