// The C++ side of tools/tokenizer_parity.py: reads texts with the ids and the decoded text that
// Hugging Face gives, and compares.
//
//   tokenizer_parity MODEL.gguf|FOLDER TEXTS.jsonl
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "load/gguf.h"
#include "load/tokenizer.h"
#include "load/tokenizer_from_file.h"
#include "load/utf8.h"

namespace lowkey {
namespace {

constexpr int kShown = 10;

Tokenizer open(const std::filesystem::path& source) {
  if (std::filesystem::is_directory(source)) return Tokenizer(tokenizer_spec_from_hf(source));
  return Tokenizer(tokenizer_spec_from_gguf(GgufFile::open(source)));
}

int compare(const std::filesystem::path& source, const std::filesystem::path& texts) {
  const Tokenizer tokenizer = open(source);
  std::ifstream in(texts);
  if (!in) fail(ErrorCode::kNotFound, "{}: cannot be read", texts.string());
  int count = 0, wrong = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const auto row = nlohmann::json::parse(line);
    const auto text = row.at("text").get<std::string>();
    const auto expected = row.at("ids").get<std::vector<int32_t>>();
    const SpecialTokens special =
        row.at("special").get<bool>() ? SpecialTokens::kParse : SpecialTokens::kIgnore;
    const std::vector<int32_t> ids = tokenizer.encode(text, special, true);
    const std::string decoded = utf8_replace_invalid(tokenizer.decode(expected));
    const bool same_text = decoded == row.at("decoded").get<std::string>();
    if (ids == expected && same_text) continue;
    if (++wrong > kShown) continue;
    fmt::print("\n  line {} (special tokens {}): {}\n    Hugging Face {}\n    lowkey       {}\n",
               count + 1, special == SpecialTokens::kParse ? "parsed" : "ignored",
               row.at("text").dump(-1, ' ', true), expected, ids);
    if (!same_text) {
      fmt::print("    decoded      {}\n    lowkey       {}\n",
                 row.at("decoded").dump(-1, ' ', true),
                 nlohmann::json(decoded).dump(-1, ' ', true));
    }
  }
  fmt::print("{} of {} encodings and decodings match\n", count - wrong, count);
  return wrong == 0 && count > 0 ? 0 : 1;
}

}  // namespace
}  // namespace lowkey

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL.gguf|FOLDER TEXTS.jsonl\n", argv[0]);
    return 2;
  }
  try {
    return lowkey::compare(argv[1], argv[2]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
