#include "weights/norm_readers.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"

namespace lowkey {
namespace {

bool reads_mlp_norm(std::string_view kind) {
  return kind == "gate" || kind == "up";
}

bool reads_attn_norm(std::string_view kind) {
  return kind == "q" || kind == "k" || kind == "v";
}

}  // namespace

std::vector<NormReaders> norm_readers(const FloatModel& model, int32_t layer) {
  const std::string prefix = fmt::format("layers.{}.", layer);
  NormReaders attention{prefix + "attn_norm.weight", {}}, mlp{prefix + "mlp_norm.weight", {}};
  for (const std::string& name : linear_names(model.config, layer)) {
    const std::string_view kind = linear_kind(name);
    if (reads_attn_norm(kind)) attention.matrices.push_back(name);
    if (reads_mlp_norm(kind)) mlp.matrices.push_back(name);
  }
  const std::string router = prefix + "router.weight";
  if (model.find(router) != nullptr) mlp.matrices.push_back(router);
  if (!model.config.shared_norm) return {attention, mlp};
  attention.matrices.insert(attention.matrices.end(), mlp.matrices.begin(), mlp.matrices.end());
  return {attention};
}

std::vector<NormReaders> all_norm_readers(const FloatModel& model) {
  std::vector<NormReaders> all;
  for (int32_t layer = 0; layer < model.config.num_layers; ++layer) {
    for (NormReaders& readers : norm_readers(model, layer)) all.push_back(std::move(readers));
  }
  LOWKEY_CHECK(!model.config.tied_embeddings, "the last norm cannot go into the embedding");
  all.push_back({"final_norm.weight", {"head.weight"}});
  return all;
}

void move_scales(FloatModel& model, const NormReaders& readers, const std::vector<float>& scales) {
  std::vector<float> norm = model.norm_weight(readers.norm);
  LOWKEY_CHECK(norm.size() == scales.size(), "{} scales of {}", scales.size(), norm.size());
  for (size_t i = 0; i < norm.size(); ++i) norm[i] /= scales[i];
  model.set_norm_weight(readers.norm, norm);
  const std::string bias =
      readers.norm.substr(0, readers.norm.size() - std::string_view("weight").size()) + "bias";
  if (model.find(bias) != nullptr) {
    FloatTensor& values = model.edit(bias);
    for (size_t i = 0; i < scales.size(); ++i) values.values[i] /= scales[i];
  }
  for (const std::string& name : readers.matrices) {
    FloatTensor& matrix = model.edit(name);
    for (size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] *= scales[i % scales.size()];
  }
}

}  // namespace lowkey
