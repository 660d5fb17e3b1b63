#pragma once
// One layer of a cache fed with random tokens, to compare ways of attending to it.
#include <cmath>
#include <cstdint>
#include <vector>

#include "attention/attend.h"
#include "core/rng.h"

namespace lowkey::test {

struct Case {
  const char* recipe;
  int32_t head_dim;
  int32_t num_kv_heads;
  int32_t group;  // query heads per KV head
  int32_t window = 0;
  float softcap = 0.0f;
  bool alibi = false;
};

// Slopes as ALiBi has them, but for one query head, which has none.
inline std::vector<float> alibi_slopes(int32_t num_qo_heads) {
  std::vector<float> slopes;
  for (int32_t h = 0; h < num_qo_heads; ++h) {
    slopes.push_back(
        std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(num_qo_heads)));
  }
  if (num_qo_heads > 2) slopes[1] = 0.0f;
  return slopes;
}

inline std::vector<float> random_floats(SplitMix64& rng, int64_t count, double spread) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = static_cast<float>((rng.uniform() - 0.5) * spread);
  return x;
}

// One layer fed with random tokens; queries of every step are answered by the reference and by each
// instruction set.
class Harness {
 public:
  explicit Harness(const Case& c, uint64_t seed = 5)
      : case_(c),
        recipe_(
            resolve_recipe(parse_recipe(c.recipe), {1, c.num_kv_heads, c.head_dim, {c.window}})),
        slopes_(c.alibi ? alibi_slopes(c.num_kv_heads * c.group) : std::vector<float>{}),
        cache_(recipe_),
        sequence_(cache_.new_sequence()),
        rng_(seed) {}

  // Appends n tokens and returns the queries' answers by `attend_with`.
  template <typename AttendWith>
  void step(int64_t n, AttendWith attend_with) {
    const int64_t kv_width = int64_t{case_.num_kv_heads} * case_.head_dim;
    std::vector<float> k = random_floats(rng_, n * kv_width, 4.0);
    std::vector<float> v = random_floats(rng_, n * kv_width, 2.0);
    for (int64_t t = 0; t < n; ++t)
      k[static_cast<size_t>(t * kv_width)] *= 8;  // an outlier channel
    const std::vector<float> q = random_floats(rng_, n * kv_width * case_.group, 2.0);
    keys_.insert(keys_.end(), k.begin(), k.end());
    values_.insert(values_.end(), v.begin(), v.end());
    const LayerView& view = sequence_.append(0, k.data(), v.data(), n, stage_);
    attend_with(view, q);
    sequence_.commit(0, stage_);
  }

  AttendArgs args(const AttendItem& item) const {
    return {{&item, 1},
            case_.num_kv_heads * case_.group,
            1.0f / std::sqrt(static_cast<float>(case_.head_dim)),
            case_.softcap,
            slopes_};
  }
  const ResolvedRecipe& recipe() const { return recipe_; }
  const std::vector<float>& keys() const { return keys_; }
  const std::vector<float>& values() const { return values_; }
  int64_t length() const { return sequence_.length(); }
  CacheUsage usage() const { return cache_.usage(); }

 private:
  Case case_;
  ResolvedRecipe recipe_;
  std::vector<float> slopes_;
  KvCache cache_;
  KvSequence sequence_;
  AppendStage stage_;
  SplitMix64 rng_;
  std::vector<float> keys_, values_;
};

inline std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (Isa isa : kIsas) {
    if (isa_available(isa)) all.push_back(isa);
  }
  return all;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  return largest;
}

}  // namespace lowkey::test
