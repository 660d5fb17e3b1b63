#pragma once
// Models small enough to make in a test, and runs of them.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "core/threads.h"
#include "load/model_file.h"
#include "model/model.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey::test {

// One of each variation of the architecture, with a name for messages.
struct Variant {
  std::string name;
  TinyModelOptions options;
};
const std::vector<Variant>& variants();

// A model with all that must outlive it.
class LoadedModel {
 public:
  explicit LoadedModel(const std::filesystem::path& path,
                       WeightStorage storage = WeightStorage::kF32, int threads = 2);
  // Written to a folder of its own first.
  explicit LoadedModel(const TinyModelOptions& options, WeightStorage storage = WeightStorage::kF32,
                       int threads = 2, ModelFormat format = ModelFormat::kHuggingFace);

  const ModelFile& file() const { return *file_; }
  Model& model() { return *model_; }
  ThreadPool& pool() { return *pool_; }
  const ModelConfig& config() const { return file_->config(); }
  std::unique_ptr<KvCache> cache(const std::string& recipe) const;

 private:
  void open(const std::filesystem::path& path, WeightStorage storage, int threads);

  TempDir folder_;
  std::unique_ptr<ModelFile> file_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Model> model_;
};

// Hidden states of all tokens, fed to `sequence` in pieces of at most `chunk`.
std::vector<float> run(Model& model, KvSequence& sequence, std::span<const int32_t> tokens,
                       int64_t chunk, Backend backend = Backend::kAuto);

std::vector<float> logits_of(Model& model, const std::vector<float>& hidden,
                             Backend backend = Backend::kAuto);

// The two at once, on a fresh cache: [tokens, vocab].
std::vector<float> run_logits(LoadedModel& loaded, const std::string& recipe,
                              std::span<const int32_t> tokens, int64_t chunk,
                              Backend backend = Backend::kAuto);

std::vector<int32_t> some_tokens(int64_t count, int32_t vocab, uint64_t seed = 1);

// max |a - b|; infinity where the lengths differ or one is NaN.
template <typename A, typename B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b);
extern template double largest_difference(const std::vector<float>&, const std::vector<float>&);
extern template double largest_difference(const std::vector<float>&, const std::vector<double>&);

// Greedy tokens must agree wherever the best logit leads the second by more than `margin`. Returns
// the number of rows where they could be compared.
int64_t expect_equal_greedy(const std::vector<float>& a, const std::vector<float>& b, int64_t vocab,
                            double margin);

}  // namespace lowkey::test
