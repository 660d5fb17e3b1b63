#include "model/model_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/rng.h"
#include "model/kv_shape.h"
#include "recipe/recipe.h"

namespace lowkey::test {

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = [] {
    std::vector<Variant> list;
    list.push_back({"tied", {}});
    list.push_back({"untied", {.seed = 2, .tied = false}});
    list.push_back({"attention biases", {.seed = 3, .attention_bias = true}});
    list.push_back({"mlp biases", {.seed = 4, .mlp_bias = true}});
    list.push_back({"llama3 rope", {.seed = 5, .rope_scaling = RopeScaling::kLlama3}});
    list.push_back({"linear rope", {.seed = 6, .rope_scaling = RopeScaling::kLinear}});
    list.push_back({"one head per KV head", {.seed = 7, .kv_heads = 4}});
    list.push_back({"three groups, ragged sizes",
                    {.seed = 8,
                     .layers = 3,
                     .hidden = 88,
                     .heads = 6,
                     .kv_heads = 2,
                     .head_dim = 32,
                     .ffn = 200,
                     .vocab = 299}});
    list.push_back({"bf16 file", {.seed = 9, .dtype = DType::kBF16}});
    list.push_back({"f16 file", {.seed = 10, .dtype = DType::kF16}});
    return list;
  }();
  return all;
}

LoadedModel::LoadedModel(const std::filesystem::path& path, WeightStorage storage, int threads) {
  open(path, storage, threads);
}

LoadedModel::LoadedModel(const TinyModelOptions& options, WeightStorage storage, int threads,
                         ModelFormat format) {
  const TinyModel tiny(options);
  const bool gguf = format == ModelFormat::kGguf;
  const std::filesystem::path path = folder_ / (gguf ? "tiny.gguf" : "tiny");
  if (gguf) {
    tiny.write_gguf(path);
  } else {
    tiny.write_hugging_face(path);
  }
  open(path, storage, threads);
}

void LoadedModel::open(const std::filesystem::path& path, WeightStorage storage, int threads) {
  file_ = std::make_unique<ModelFile>(ModelFile::open(path));
  pool_ = std::make_unique<ThreadPool>(threads);
  model_ = std::make_unique<Model>(Model::load(*file_, storage, *pool_));
}

std::unique_ptr<KvCache> LoadedModel::cache(const std::string& recipe) const {
  return std::make_unique<KvCache>(resolve_recipe(parse_recipe(recipe), kv_shape(config())));
}

std::vector<float> run(Model& model, KvSequence& sequence, std::span<const int32_t> tokens,
                       int64_t chunk, Backend backend) {
  const int64_t hidden_size = model.config().hidden_size;
  std::vector<float> hidden(tokens.size() * static_cast<size_t>(hidden_size));
  for (int64_t done = 0; done < std::ssize(tokens); done += chunk) {
    const int64_t count = std::min(chunk, std::ssize(tokens) - done);
    const StepItem item{&sequence,
                        tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
                        RowsWanted::kAll};
    model.forward({&item, 1}, hidden.data() + done * hidden_size, backend);
  }
  return hidden;
}

std::vector<float> logits_of(Model& model, const std::vector<float>& hidden, Backend backend) {
  const int64_t hidden_size = model.config().hidden_size, vocab = model.config().vocab_size;
  const int64_t rows = std::ssize(hidden) / hidden_size;
  const int64_t block = backend == Backend::kNative ? kNativeRows : rows;
  std::vector<float> logits(static_cast<size_t>(rows * vocab));
  for (int64_t row = 0; row < rows; row += block) {
    model.logits(hidden.data() + row * hidden_size, std::min(block, rows - row),
                 logits.data() + row * vocab, backend);
  }
  return logits;
}

std::vector<float> run_logits(LoadedModel& loaded, const std::string& recipe,
                              std::span<const int32_t> tokens, int64_t chunk, Backend backend) {
  const auto cache = loaded.cache(recipe);
  KvSequence sequence = cache->new_sequence();
  return logits_of(loaded.model(), run(loaded.model(), sequence, tokens, chunk, backend), backend);
}

std::vector<int32_t> some_tokens(int64_t count, int32_t vocab, uint64_t seed) {
  SplitMix64 rng(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

template <typename A, typename B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  }
  return largest;
}
template double largest_difference(const std::vector<float>&, const std::vector<float>&);
template double largest_difference(const std::vector<float>&, const std::vector<double>&);

int64_t expect_equal_greedy(const std::vector<float>& a, const std::vector<float>& b, int64_t vocab,
                            double margin) {
  int64_t compared = 0;
  for (int64_t row = 0; row < std::ssize(a) / vocab; ++row) {
    const auto first = a.begin() + row * vocab;
    const int64_t best = std::max_element(first, first + vocab) - first;
    double second = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < vocab; ++i) {
      if (i != best) second = std::max<double>(second, first[i]);
    }
    if (first[best] - second <= margin) continue;
    const auto other = b.begin() + row * vocab;
    EXPECT_EQ(std::max_element(other, other + vocab) - other, best) << "row " << row;
    ++compared;
  }
  return compared;
}

}  // namespace lowkey::test
