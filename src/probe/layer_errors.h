#pragma once
// What stored keys and values do to the attention of one layer: many forms of them compared with
// the exact one, on the same queries. Torch-free.
#include <cstdint>
#include <span>
#include <vector>

#include "core/aligned.h"
#include "core/threads.h"
#include "load/model_file.h"
#include "probe/stored_side.h"

namespace lowkey {

// The queries of one layer: those at `positions` (ascending) of all heads, times the scale of
// scores.
struct LayerQueries {
  std::vector<int64_t> positions;
  int32_t num_qo_heads = 0;
  int32_t padded_dim = 0;
  AlignedVector<float> q;  // [queries, num_qo_heads, padded_dim], zeros behind head_dim

  const float* row(int64_t query, int64_t head) const {
    return q.data() + (query * num_qo_heads + head) * padded_dim;
  }
};

// Takes rows `positions` of q [tokens, num_qo_heads, head_dim].
LayerQueries select_queries(const float* q, std::span<const int64_t> positions,
                            const ModelConfig& config);

inline constexpr int32_t kExact = -1;

struct ComparedPair {
  int32_t key = kExact;  // indexes of Comparison::keys and values
  int32_t value = kExact;
  // If set, o^ - o is written here: [queries, num_qo_heads, head_dim].
  float* output_error = nullptr;
};

struct Comparison {
  const StoredSide* exact_keys = nullptr;
  const StoredSide* exact_values = nullptr;
  std::vector<const StoredSide*> keys, values;
  std::vector<ComparedPair> pairs;
  bool attention_shape = false;
  int32_t follow = kExact;  // of `keys`: whose attention the most shifted query is sought for
};

// Sums over the queries of one head. Those of several documents add up.
struct ScoreSums {
  double attention_error = 0;  // mean over tokens seen of |a^ - a|
  // Over (query, token seen packed):
  double error = 0, squared_error = 0, magnitude = 0, count = 0;
  double predicted_variance = 0;  // where keys have their steps
};

struct OutputSums {
  double error = 0, signed_ = 0, magnitude = 0;  // over queries and channels
};

struct ShapeSums {
  double entropy = 0, top_share = 0, sink_share = 0;
};

struct MostShifted {
  double change = -1;  // sum of |a^ - a|
  int64_t query = 0;   // index
  int64_t head = 0;
};

struct ComparisonSums {
  std::vector<std::vector<ScoreSums>> keys;    // [key][num_qo_heads]
  std::vector<std::vector<OutputSums>> pairs;  // [pair][num_qo_heads]
  std::vector<ShapeSums> shape;                // [num_qo_heads]
  MostShifted most_shifted;
};

void add(ScoreSums& to, const ScoreSums& from);
void add(std::vector<OutputSums>& to, const std::vector<OutputSums>& from);  // `to` may be empty
void add(ComparisonSums& to, const ComparisonSums& from);  // likewise; most_shifted stays

ComparisonSums compare(const LayerInput& input, const LayerQueries& queries,
                       const Comparison& comparison, ThreadPool& pool);

// The attention of one query over the tokens it sees, in double; keys as `stored` has them, or
// exact where it is null.
std::vector<double> attention_of(const LayerInput& input, const LayerQueries& queries,
                                 int64_t query, int64_t head, const StoredSide& exact,
                                 const StoredSide* stored);

}  // namespace lowkey
