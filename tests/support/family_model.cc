#include "support/family_model.h"

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "support/paths.h"
#include "support/safetensors_writer.h"
#include "support/tiny_model.h"

namespace lowkey::test {
namespace {

using nlohmann::json;

constexpr int32_t kMaxContext = 512;  // of the tokenizer's configuration, not the model's

uint64_t fnv1a_64(const std::string& text) {
  uint64_t value = 0xcbf29ce484222325ull;
  for (unsigned char byte : text) value = (value ^ byte) * 0x100000001b3ull;
  return value;
}

FamilyTensor grown(uint64_t seed, const json& row) {
  FamilyTensor tensor;
  tensor.shape = row[1].get<std::vector<int64_t>>();
  const double offset = row[2], amplitude = row[3];
  int64_t count = 1;
  for (int64_t size : tensor.shape) count *= size;
  SplitMix64 rng(fnv1a_64(row[0]) ^ seed);
  tensor.values.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double x = rng.uniform() * 2.0 - 1.0;
    tensor.values.push_back(static_cast<float>(offset + amplitude * x));
  }
  return tensor;
}

std::string encoded(const std::vector<float>& values) {
  ByteWriter out;
  for (float value : values) out.put(value);
  return out.bytes();
}

int64_t row_width(const FamilyTensor& tensor) {
  return std::ssize(tensor.values) / tensor.shape[0];
}

void append_rows(const FamilyTensor& from, int64_t first, int64_t end, std::vector<float>& to) {
  const auto row = [&](int64_t i) { return from.values.begin() + i * row_width(from); };
  to.insert(to.end(), row(first), row(end));
}

// Each head's two halves of rows become alternating rows.
FamilyTensor permuted(const FamilyTensor& from, int64_t heads) {
  FamilyTensor to{from.shape, {}};
  const int64_t head = from.shape[0] / heads;
  for (int64_t row = 0; row < from.shape[0]; ++row) {
    const int64_t in_head = row % head;
    const int64_t source = row - in_head + (in_head % 2) * (head / 2) + in_head / 2;
    append_rows(from, source, source + 1, to.values);
  }
  return to;
}

std::string renamed(const std::string& name, const json& prefixes) {
  for (const json& pair : prefixes) {
    const std::string ours = pair[0], theirs = pair[1];
    if (name.starts_with(ours)) return theirs + name.substr(ours.size());
  }
  return name;
}

}  // namespace

std::vector<std::string> FamilyModel::names() {
  const std::string prefix = "family_";
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(test::golden(""))) {
    const std::string stem = entry.path().stem();
    if (stem.starts_with(prefix)) names.push_back(stem.substr(prefix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

FamilyModel::FamilyModel(const std::string& name)
    : golden_(json::parse(read_file(test::golden("family_" + name + ".json")))) {
  for (const json& row : golden_["tensors"]) tensors_[row[0]] = grown(golden_["seed"], row);
}

std::vector<std::string> FamilyModel::spellings() const {
  std::vector<std::string> names;
  for (const auto& [name, spelling] : golden_["spellings"].items()) names.push_back(name);
  return names;
}

void FamilyModel::write_hugging_face(const std::filesystem::path& folder,
                                     const std::string& spelling) const {
  const json& said = golden_["spellings"].at(spelling);
  std::filesystem::create_directories(folder);
  TinyModel::write_tokenizer(folder, golden_["vocab"], kMaxContext);
  write_file_atomically(folder / "config.json", said["config"].dump());
  SafetensorsWriter writer;
  writer.metadata["format"] = "pt";
  writer.pad_header = true;
  const auto add = [&](const std::string& name, const FamilyTensor& tensor) {
    writer.add_tensor(name, "F32", tensor.shape, encoded(tensor.values));
  };
  for (const json& row : golden_["tensors"]) {
    const std::string name = row[0];
    add(renamed(name, said["names"]), tensors_.at(name));
  }
  for (const auto& [copy, of] : said["copies"].items()) add(copy, tensors_.at(of));
  writer.write(folder / "model.safetensors");
}

FamilyTensor FamilyModel::evaluate(const json& expression) const {
  if (expression.is_string()) return tensors_.at(expression);
  const std::string operation = expression[0];
  FamilyTensor result;
  if (operation == "values") {
    result.values = expression[1].get<std::vector<float>>();
    result.shape = {std::ssize(result.values)};
    return result;
  }
  if (operation == "stack") {
    for (size_t i = 1; i < expression.size(); ++i) {
      const FamilyTensor part = evaluate(expression[i]);
      result.shape = part.shape;
      result.values.insert(result.values.end(), part.values.begin(), part.values.end());
    }
    result.shape.insert(result.shape.begin(), std::ssize(expression) - 1);
    return result;
  }
  const FamilyTensor x = evaluate(expression[2]);
  if (operation == "permute") return permuted(x, expression[1]);
  result.shape = x.shape;
  if (operation == "rows") {
    for (const json& run : expression[1]) append_rows(x, run[0], run[1], result.values);
    result.shape[0] = std::ssize(result.values) / row_width(x);
    return result;
  }
  LOWKEY_CHECK(operation == "plus", "no such operation: {}", operation);
  for (float value : x.values) result.values.push_back(value + expression[1].get<float>());
  return result;
}

GgufWriter FamilyModel::gguf() const {
  LOWKEY_CHECK(has_gguf(), "{} has no GGUF", golden_["name"].get<std::string>());
  GgufWriter writer;
  for (const json& row : golden_["gguf"]["metadata"]) {
    const std::string key = row[0], type = row[1];
    if (type == "u32") {
      writer.add(key, row[2].get<uint32_t>());
    } else if (type == "f32") {
      writer.add(key, row[2].get<float>());
    } else {
      LOWKEY_CHECK(type == "string", "no such type: {}", type);
      writer.add(key, std::string_view(row[2].get_ref<const std::string&>()));
    }
  }
  TinyModel::add_tokenizer(writer, golden_["vocab"]);
  for (const json& row : golden_["gguf"]["tensors"]) {
    const FamilyTensor tensor = evaluate(row[2]);
    LOWKEY_CHECK(tensor.shape == row[1].get<std::vector<int64_t>>(), "{}: another shape",
                 row[0].get<std::string>());
    writer.add_tensor(row[0], DType::kF32, tensor.shape, encoded(tensor.values));
  }
  return writer;
}

}  // namespace lowkey::test
