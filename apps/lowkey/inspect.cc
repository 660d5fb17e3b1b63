#include "inspect.h"

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "recipe/front.h"
#include "recipe/json_node.h"

namespace lowkey {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJsonBytes = uint64_t{64} << 20;

bool begins_with(const fs::path& path, std::string_view magic) {
  std::ifstream file(path, std::ios::binary);
  std::string start(magic.size(), '\0');
  return file.read(start.data(), static_cast<std::streamsize>(start.size())) && start == magic;
}

// A GGUF may be something else than a model we run (a vocabulary, another architecture): it is
// still worth looking into. A damaged one fails again while it is read as a plain GGUF.
std::string inspect_gguf_or_model(const InspectOptions& options, const Terminal& terminal) {
  try {
    return inspect_model(ModelFile::open(options.path), options, terminal);
  } catch (const Error& error) {
    const bool other_kind = error.code() == ErrorCode::kUnsupported ||
                            error.code() == ErrorCode::kNotFound ||
                            error.code() == ErrorCode::kCorruptFile;
    // Asked what a recipe costs on it, the reason is the answer.
    if (!other_kind || !options.kv.empty()) throw;
    return inspect_gguf(options, error.what(), terminal);
  }
}

// A short form is not a path, but easily typed for one: report the mistake that was more likely
// made.
KvRecipe recipe_or_missing_file(const std::string& text) {
  try {
    return parse_recipe(text);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    if (parse_front_reference(text)) throw;
    if (text.find('=') != text.npos || text.find(':') != text.npos || text.starts_with("kivi"))
      throw;
    fail(ErrorCode::kNotFound, "{}: no such file, and no recipe either", text);
  }
}

}  // namespace

std::string inspect(const InspectOptions& options, const Terminal& terminal) {
  const fs::path path = options.path;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return inspect_recipe(recipe_or_missing_file(options.path), options, terminal);
  }
  if (fs::is_directory(path)) return inspect_model(ModelFile::open(path), options, terminal);
  if (begins_with(path, "GGUF")) return inspect_gguf_or_model(options, terminal);
  if (path.extension() == ".safetensors") return inspect_safetensors(options, terminal);
  if (path.extension() == ".json") {
    if (json_format(read_file(path, kMaxJsonBytes)) == JsonFormat::kFront) {
      return inspect_front(options, terminal);
    }
    return inspect_recipe(parse_recipe(options.path), options, terminal);
  }
  if (path.extension() == ".yaml" || path.extension() == ".yml") parse_recipe(options.path);
  fail(ErrorCode::kUnsupported,
       "{}: neither GGUF nor .safetensors nor .json, and not a folder with a model", options.path);
}

int inspect_verb(const InspectOptions& options) {
  const std::string text = inspect(options, detect_terminal(stdout, options.no_color));
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::kIo, "cannot write to standard output");
  return 0;
}

}  // namespace lowkey
