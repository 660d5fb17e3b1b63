// llama.cpp's own test vectors: <vocabulary>.gguf, .inp (texts) and .out (ids, one line each). They
// were made without special tokens on either side (add_special and parse_special false in its
// test-tokenizer-0).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "core/files.h"
#include "load/gguf.h"
#include "load/tokenizer.h"
#include "load/tokenizer_from_file.h"
#include "support/paths.h"

namespace lowkey {
namespace {

std::vector<std::string> read_texts(const std::filesystem::path& path) {
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  const std::string all = read_file(path);
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t hit; (hit = all.find(kSeparator, at)) != std::string::npos;
       at = hit + kSeparator.size()) {
    texts.push_back(all.substr(at, hit - at));
  }
  return texts;
}

std::vector<std::vector<int32_t>> read_ids(const std::filesystem::path& path) {
  std::istringstream lines(read_file(path));
  std::vector<std::vector<int32_t>> all;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<int32_t>& ids = all.emplace_back();
    for (int32_t id; words >> id;) ids.push_back(id);
  }
  return all;
}

class VocabularyVectors : public ::testing::TestWithParam<const char*> {};

TEST_P(VocabularyVectors, MatchLlamaCpp) {
  const std::string name = "tokenizer/ggml-vocab-" + std::string(GetParam()) + ".gguf";
  const auto vocabulary = test::shared_data(name);
  if (!vocabulary) GTEST_SKIP() << "the shared data has no " << name;
  const std::vector<std::string> texts = read_texts(vocabulary->string() + ".inp");
  const std::vector<std::vector<int32_t>> expected = read_ids(vocabulary->string() + ".out");
  ASSERT_EQ(texts.size(), 46u);
  ASSERT_EQ(texts.size(), expected.size());
  const Tokenizer tokenizer(tokenizer_spec_from_gguf(GgufFile::open(*vocabulary)));
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(texts[i], SpecialTokens::kIgnore, false), expected[i])
        << "text " << i << ": " << ::testing::PrintToString(texts[i]);
    EXPECT_EQ(tokenizer.decode(expected[i]), texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(LlamaCpp, VocabularyVectors,
                         ::testing::Values("gpt-2", "llama-spm", "phi-3", "llama-bpe", "qwen2",
                                           "falcon"),
                         [](const auto& test) {
                           std::string id = test.param;
                           std::replace(id.begin(), id.end(), '-', '_');
                           return id;
                         });

}  // namespace
}  // namespace lowkey
