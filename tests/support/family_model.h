#pragma once
// A tiny random model of any family, from its golden alone (tests/golden/family_NAME.json, made by
// tools/families.py, where the rule by which weights grow is written down): the Hugging Face folder
// that transformers computed the golden's logits with, and the GGUF llama.cpp's converter makes of
// it. Both equal what the tool writes, byte for byte in their weights.
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/gguf_writer.h"

namespace lowkey::test {

struct FamilyTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class FamilyModel {
 public:
  // Every family there is a golden of, in the order of their names.
  static std::vector<std::string> names();

  explicit FamilyModel(const std::string& name);

  const nlohmann::json& golden() const { return golden_; }
  const std::map<std::string, FamilyTensor>& tensors() const { return tensors_; }

  // "transformers 5" and "published": how different versions of the software write the same model
  // down. They differ in config.json, and where hub checkpoints do, in the tensors' names.
  std::vector<std::string> spellings() const;
  void write_hugging_face(const std::filesystem::path& folder, const std::string& spelling) const;

  bool has_gguf() const { return !golden_["gguf"].is_null(); }
  GgufWriter gguf() const;

 private:
  // An expression of the golden's GGUF table, as tools/family_gguf.py defines them.
  FamilyTensor evaluate(const nlohmann::json& expression) const;

  nlohmann::json golden_;
  std::map<std::string, FamilyTensor> tensors_;
};

}  // namespace lowkey::test
