#include "probe/layer_errors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "attention/tile_kernels.h"

namespace lowkey {
namespace {

// Rows of a block, (query, head of the KV head's group) pairs: enough that a tile of keys is read
// for many, few enough that their scores over a document stay in a core's cache.
constexpr int64_t kBlockRows = 48;
constexpr double kTopTokens = 0.05;

// e^x for x <= 0, relative error below 3e-7, without a call, so that loops of it vectorize on any
// machine. Below -87 the result is as good as zero.
inline float exp_of_negative(float x) {
  x = std::max(x, -87.0f);
  constexpr float kAlign = 12582912.0f;  // 1.5 * 2^23: integers end up in the last bits
  const float aligned = x * 1.44269504f + kAlign;
  const float n = aligned - kAlign;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) +
                              (std::bit_cast<uint32_t>(aligned) << 23));
}

// A tile's share of a row: kTileTokens floats. Loops over them have a fixed length and
// independent lanes, which compilers vectorize.
struct Lanes {
  float x[kTileTokens] = {};
  double sum() const {
    double total = 0;
    for (float lane : x) total += static_cast<double>(lane);
    return total;
  }
};

struct BlockScratch {
  AlignedVector<float> q, squared_q;                       // [rows, padded_dim]
  AlignedVector<float> scores, attention, changed;         // [tile, row, 32]
  AlignedVector<float> tile, variance, stored_p, exact_p;  // [row, 32]
  AlignedVector<float> output, changed_output;             // [row, padded_dim]
  std::vector<float> sorted;
};

struct BlockSums {
  std::vector<std::vector<ScoreSums>> keys;    // [key][group]
  std::vector<std::vector<OutputSums>> pairs;  // [pair][group]
  std::vector<ShapeSums> shape;                // [group]
  MostShifted most_shifted;
};

// A few neighbouring queries of one KV head. Row r is query r / group, head r % group of the group.
class Block {
 public:
  Block(const LayerInput& input, const LayerQueries& queries, const Comparison& comparison,
        int64_t kv_head, int64_t first_query, int64_t num_queries, BlockScratch& scratch)
      : input_(input),
        queries_(queries),
        comparison_(comparison),
        kernels_(tile_kernels(active_isa())),
        s_(scratch),
        kv_head_(static_cast<size_t>(kv_head)),
        first_query_(first_query),
        group_(queries.num_qo_heads / input.num_kv_heads),
        rows_(num_queries * group_),
        padded_(input.padded_dim()),
        tiles_(position_of(rows_ - 1) / kTileTokens + 1) {}

  BlockSums run() {
    sums_.keys.assign(comparison_.keys.size(), std::vector<ScoreSums>(group()));
    sums_.pairs.assign(comparison_.pairs.size(), std::vector<OutputSums>(group()));
    sums_.shape.resize(group());
    prepare();
    exact_attention();
    for (size_t p = 0; p < comparison_.pairs.size(); ++p) {
      if (comparison_.pairs[p].key == kExact) compare_output(p, s_.attention);
    }
    for (size_t k = 0; k < comparison_.keys.size(); ++k) {
      changed_attention(k);
      for (size_t p = 0; p < comparison_.pairs.size(); ++p) {
        if (comparison_.pairs[p].key == static_cast<int32_t>(k)) compare_output(p, s_.changed);
      }
    }
    return std::move(sums_);
  }

 private:
  size_t group() const { return static_cast<size_t>(group_); }
  size_t group_index(int64_t row) const { return static_cast<size_t>(row % group_); }
  int64_t query_of(int64_t row) const { return first_query_ + row / group_; }
  int64_t head_of(int64_t row) const {
    return static_cast<int64_t>(kv_head_) * group_ + row % group_;
  }
  int64_t position_of(int64_t row) const {
    return queries_.positions[static_cast<size_t>(query_of(row))];
  }
  int64_t lane_offset(int64_t tile, int64_t row) const {
    return (tile * rows_ + row) * kTileTokens;
  }
  int64_t seen(const StoredHead& head, int64_t row) const {
    return head.seen[static_cast<size_t>(query_of(row))];
  }
  const float* keys_of(const AlignedVector<float>& x, int64_t tile) const {
    return x.data() + tile * input_.head_dim * kTileTokens;
  }
  const float* values_of(const AlignedVector<float>& x, int64_t tile) const {
    return x.data() + tile * padded_ * kTileTokens;
  }
  const StoredHead& exact_keys() const { return comparison_.exact_keys->heads[kv_head_]; }
  const StoredHead& exact_values() const { return comparison_.exact_values->heads[kv_head_]; }

  void prepare() {
    const auto row_floats = static_cast<size_t>(rows_ * padded_);
    const auto tile_floats = static_cast<size_t>(rows_ * kTileTokens);
    const auto all_floats = tile_floats * static_cast<size_t>(tiles_);
    for (auto* floats : {&s_.q, &s_.squared_q, &s_.output, &s_.changed_output}) {
      floats->resize(row_floats);
    }
    for (auto* floats : {&s_.tile, &s_.variance, &s_.stored_p, &s_.exact_p}) {
      floats->resize(tile_floats);
    }
    for (auto* floats : {&s_.scores, &s_.attention, &s_.changed}) floats->resize(all_floats);
    for (int64_t row = 0; row < rows_; ++row) {
      std::memcpy(s_.q.data() + row * padded_, queries_.row(query_of(row), head_of(row)),
                  static_cast<size_t>(padded_) * sizeof(float));
    }
    for (size_t i = 0; i < row_floats; ++i) s_.squared_q[i] = s_.q[i] * s_.q[i];
  }

  void exact_attention() {
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      kernels_.scores(s_.q.data(), rows_, keys_of(exact_keys().x, tile), input_.head_dim, padded_,
                      s_.scores.data() + lane_offset(tile, 0));
    }
    s_.attention = s_.scores;
    for (int64_t row = 0; row < rows_; ++row) {
      const double entropy = softmax(s_.attention, row);
      if (comparison_.attention_shape) add_shape(row, entropy);
    }
    weigh(s_.attention, nullptr, s_.output);
  }

  // Scores of one row to probabilities, in place; 0 where it must not look. Returns the entropy.
  double softmax(AlignedVector<float>& x, int64_t row) const {
    const int64_t count = position_of(row) + 1;
    float top = -INFINITY;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      float* lanes = x.data() + lane_offset(tile, row);
      for (int64_t i = std::clamp<int64_t>(count - tile * kTileTokens, 0, kTileTokens);
           i < kTileTokens; ++i) {
        lanes[i] = -INFINITY;
      }
      for (int64_t i = 0; i < kTileTokens; ++i) top = std::max(top, lanes[i]);
    }
    double sum = 0, weighted = 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      float* lanes = x.data() + lane_offset(tile, row);
      Lanes p, w;
      for (int64_t i = 0; i < kTileTokens; ++i) {
        const float below = std::max(lanes[i] - top, -87.0f);
        p.x[i] = exp_of_negative(below);
        w.x[i] = p.x[i] * below;
      }
      sum += p.sum();
      weighted += w.sum();
      std::memcpy(lanes, p.x, sizeof(p.x));
    }
    const auto scale = static_cast<float>(1 / sum);
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      float* lanes = x.data() + lane_offset(tile, row);
      const int64_t valid = std::clamp<int64_t>(count - tile * kTileTokens, 0, kTileTokens);
      for (int64_t i = 0; i < valid; ++i) lanes[i] *= scale;
      for (int64_t i = valid; i < kTileTokens; ++i) lanes[i] = 0;
    }
    return std::log(sum) - weighted / sum;
  }

  void add_shape(int64_t row, double entropy) {
    const int64_t count = position_of(row) + 1;
    s_.sorted.clear();
    for (int64_t t = 0; t < count; ++t) {
      s_.sorted.push_back(
          s_.attention[static_cast<size_t>(lane_offset(t / kTileTokens, row) + t % kTileTokens)]);
    }
    ShapeSums& shape = sums_.shape[group_index(row)];
    shape.entropy += entropy;
    shape.sink_share += static_cast<double>(s_.sorted[0]);
    const auto most = std::max<int64_t>(
        1, static_cast<int64_t>(std::ceil(kTopTokens * static_cast<double>(count))));
    std::nth_element(s_.sorted.begin(), s_.sorted.begin() + (most - 1), s_.sorted.end(),
                     std::greater<>());
    // Which of the largest come first is the library's choice, and sums depend on the order.
    std::sort(s_.sorted.begin(), s_.sorted.begin() + most, std::greater<>());
    for (int64_t i = 0; i < most; ++i) {
      shape.top_share += static_cast<double>(s_.sorted[static_cast<size_t>(i)]);
    }
  }

  // The attention with stored keys, and what it says about them.
  void changed_attention(size_t key) {
    const StoredHead& stored = comparison_.keys[key]->heads[kv_head_];
    std::vector<ScoreSums>& sums = sums_.keys[key];
    const bool predict = !stored.squared_step.empty();
    const int64_t most_seen = seen(stored, rows_ - 1);
    s_.changed = s_.scores;
    for (int64_t tile = 0; tile * kTileTokens < most_seen; ++tile) {
      kernels_.scores(s_.q.data(), rows_, keys_of(stored.x, tile), input_.head_dim, padded_,
                      s_.tile.data());
      if (predict) {
        kernels_.scores(s_.squared_q.data(), rows_, keys_of(stored.squared_step, tile),
                        input_.head_dim, padded_, s_.variance.data());
      }
      for (int64_t row = 0; row < rows_; ++row) {
        add_scores(tile, row, stored, sums[group_index(row)]);
      }
    }
    for (int64_t row = 0; row < rows_; ++row) {
      softmax(s_.changed, row);
      double change = 0;
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        const float* now = s_.changed.data() + lane_offset(tile, row);
        const float* was = s_.attention.data() + lane_offset(tile, row);
        Lanes error;
        for (int64_t i = 0; i < kTileTokens; ++i) error.x[i] = std::abs(now[i] - was[i]);
        change += error.sum();
      }
      sums[group_index(row)].attention_error += change / static_cast<double>(position_of(row) + 1);
      if (comparison_.follow == static_cast<int32_t>(key) && change > sums_.most_shifted.change) {
        sums_.most_shifted = {change, query_of(row), head_of(row)};
      }
    }
  }

  void add_scores(int64_t tile, int64_t row, const StoredHead& stored, ScoreSums& sums) {
    const auto lane = [&](int64_t token) {
      return std::clamp<int64_t>(token - tile * kTileTokens, 0, kTileTokens);
    };
    const int64_t first = lane(stored.first), last = lane(seen(stored, row));
    if (first >= last) return;
    const float* now = s_.tile.data() + row * kTileTokens;
    const int64_t offset = lane_offset(tile, row);
    const float* was = s_.scores.data() + offset;
    Lanes error, squared, magnitude;
    for (int64_t i = first; i < last; ++i) {
      const float e = now[i] - was[i];
      error.x[i] = e;
      squared.x[i] = e * e;
      magnitude.x[i] = std::abs(was[i]);
    }
    sums.error += error.sum();
    sums.squared_error += squared.sum();
    sums.magnitude += magnitude.sum();
    sums.count += static_cast<double>(last - first);
    std::copy(now + first, now + last, s_.changed.data() + offset + first);
    if (stored.squared_step.empty()) return;
    const float* variance = s_.variance.data() + row * kTileTokens;
    Lanes predicted;
    std::copy(variance + first, variance + last, predicted.x + first);
    sums.predicted_variance += predicted.sum() / 12;
  }

  // out = p times the values: stored ones where a row sees them so, else exact ones.
  void weigh(const AlignedVector<float>& p, const StoredHead* stored, AlignedVector<float>& out) {
    std::fill(out.begin(), out.end(), 0.0f);
    const auto accumulate = [&](const float* weights, const AlignedVector<float>& x, int64_t tile) {
      kernels_.accumulate(weights, rows_, values_of(x, tile), padded_, out.data());
    };
    const int64_t least = stored ? seen(*stored, 0) : 0;
    const int64_t most = stored ? seen(*stored, rows_ - 1) : 0;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const float* weights = p.data() + lane_offset(tile, 0);
      const int64_t start = tile * kTileTokens;
      if (start >= most) {
        accumulate(weights, exact_values().x, tile);
      } else if (start + kTileTokens <= least) {
        accumulate(weights, stored->x, tile);
      } else {
        for (int64_t row = 0; row < rows_; ++row) {
          const int64_t count = std::clamp<int64_t>(seen(*stored, row) - start, 0, kTileTokens);
          for (int64_t i = 0; i < kTileTokens; ++i) {
            const auto at = static_cast<size_t>(row * kTileTokens + i);
            s_.stored_p[at] = i < count ? weights[at] : 0.0f;
            s_.exact_p[at] = i < count ? 0.0f : weights[at];
          }
        }
        accumulate(s_.stored_p.data(), stored->x, tile);
        accumulate(s_.exact_p.data(), exact_values().x, tile);
      }
    }
  }

  void compare_output(size_t index, const AlignedVector<float>& attention) {
    const ComparedPair& pair = comparison_.pairs[index];
    const StoredHead* stored =
        pair.value == kExact
            ? nullptr
            : &comparison_.values[static_cast<size_t>(pair.value)]->heads[kv_head_];
    weigh(attention, stored, s_.changed_output);
    for (int64_t row = 0; row < rows_; ++row) {
      OutputSums& sums = sums_.pairs[index][group_index(row)];
      for (int64_t c = 0; c < input_.head_dim; ++c) {
        const auto at = static_cast<size_t>(row * padded_ + c);
        const double was = static_cast<double>(s_.output[at]);
        const double error = static_cast<double>(s_.changed_output[at]) - was;
        sums.error += std::abs(error);
        sums.signed_ += error;
        sums.magnitude += std::abs(was);
        if (pair.output_error) {
          pair.output_error[(query_of(row) * queries_.num_qo_heads + head_of(row)) *
                                input_.head_dim +
                            c] = static_cast<float>(error);
        }
      }
    }
  }

  const LayerInput& input_;
  const LayerQueries& queries_;
  const Comparison& comparison_;
  const TileKernels& kernels_;
  BlockScratch& s_;
  const size_t kv_head_;
  const int64_t first_query_;
  const int64_t group_;
  const int64_t rows_;
  const int32_t padded_;
  const int64_t tiles_;  // as far as the last row sees
  BlockSums sums_;
};

void add(OutputSums& to, const OutputSums& from) {
  to.error += from.error;
  to.signed_ += from.signed_;
  to.magnitude += from.magnitude;
}

void add(ShapeSums& to, const ShapeSums& from) {
  to.entropy += from.entropy;
  to.top_share += from.top_share;
  to.sink_share += from.sink_share;
}

}  // namespace

void add(ScoreSums& to, const ScoreSums& from) {
  to.attention_error += from.attention_error;
  to.error += from.error;
  to.squared_error += from.squared_error;
  to.magnitude += from.magnitude;
  to.count += from.count;
  to.predicted_variance += from.predicted_variance;
}

void add(std::vector<OutputSums>& to, const std::vector<OutputSums>& from) {
  to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) add(to[i], from[i]);
}

void add(ComparisonSums& to, const ComparisonSums& from) {
  to.keys.resize(from.keys.size());
  for (size_t k = 0; k < from.keys.size(); ++k) {
    to.keys[k].resize(from.keys[k].size());
    for (size_t h = 0; h < from.keys[k].size(); ++h) add(to.keys[k][h], from.keys[k][h]);
  }
  to.pairs.resize(from.pairs.size());
  for (size_t p = 0; p < from.pairs.size(); ++p) add(to.pairs[p], from.pairs[p]);
  to.shape.resize(from.shape.size());
  for (size_t h = 0; h < from.shape.size(); ++h) add(to.shape[h], from.shape[h]);
}

LayerQueries select_queries(const float* q, std::span<const int64_t> positions,
                            const ModelConfig& config) {
  const int32_t num_qo_heads = config.num_qo_heads, head_dim = config.head_dim;
  LayerQueries queries;
  queries.positions.assign(positions.begin(), positions.end());
  queries.num_qo_heads = num_qo_heads;
  queries.padded_dim = (head_dim + kLanes - 1) / kLanes * kLanes;
  queries.q.assign(positions.size() * static_cast<size_t>(num_qo_heads * queries.padded_dim), 0);
  const auto scale = static_cast<float>(config.attention_scale);
  for (size_t i = 0; i < positions.size(); ++i) {
    for (int64_t h = 0; h < num_qo_heads; ++h) {
      const float* from = q + (positions[i] * num_qo_heads + h) * head_dim;
      float* to =
          queries.q.data() + (static_cast<int64_t>(i) * num_qo_heads + h) * queries.padded_dim;
      for (int64_t c = 0; c < head_dim; ++c) to[c] = from[c] * scale;
    }
  }
  return queries;
}

ComparisonSums compare(const LayerInput& input, const LayerQueries& queries,
                       const Comparison& comparison, ThreadPool& pool) {
  const int64_t group = queries.num_qo_heads / input.num_kv_heads;
  const int64_t block = std::max<int64_t>(1, kBlockRows / group);
  const auto num_queries = std::ssize(queries.positions);
  const int64_t blocks = (num_queries + block - 1) / block;
  std::vector<BlockSums> parts(static_cast<size_t>(input.num_kv_heads * blocks));
  std::vector<BlockScratch> scratch(static_cast<size_t>(pool.num_threads()));
  pool.run(std::ssize(parts), [&](int64_t task, int thread) {
    // The last queries see the most tokens: first the long tasks, then what fills the gaps.
    const int64_t index = blocks - 1 - task / input.num_kv_heads;
    const int64_t first = index * block;
    parts[static_cast<size_t>(task)] =
        Block(input, queries, comparison, task % input.num_kv_heads, first,
              std::min(block, num_queries - first), scratch[static_cast<size_t>(thread)])
            .run();
  });

  ComparisonSums sums;
  const auto heads = static_cast<size_t>(queries.num_qo_heads);
  sums.keys.assign(comparison.keys.size(), std::vector<ScoreSums>(heads));
  sums.pairs.assign(comparison.pairs.size(), std::vector<OutputSums>(heads));
  sums.shape.resize(heads);
  for (size_t task = 0; task < parts.size(); ++task) {
    const BlockSums& part = parts[task];
    const size_t first_head =
        task % static_cast<size_t>(input.num_kv_heads) * static_cast<size_t>(group);
    for (size_t g = 0; g < static_cast<size_t>(group); ++g) {
      for (size_t k = 0; k < part.keys.size(); ++k) {
        add(sums.keys[k][first_head + g], part.keys[k][g]);
      }
      for (size_t p = 0; p < part.pairs.size(); ++p) {
        add(sums.pairs[p][first_head + g], part.pairs[p][g]);
      }
      add(sums.shape[first_head + g], part.shape[g]);
    }
    if (part.most_shifted.change > sums.most_shifted.change) {
      sums.most_shifted = part.most_shifted;
    }
  }
  return sums;
}

std::vector<double> attention_of(const LayerInput& input, const LayerQueries& queries,
                                 int64_t query, int64_t head, const StoredSide& exact,
                                 const StoredSide* stored) {
  const auto kv_head = static_cast<size_t>(head / (queries.num_qo_heads / input.num_kv_heads));
  const int64_t count = queries.positions[static_cast<size_t>(query)] + 1;
  const float* q = queries.row(query, head);
  std::vector<double> p(static_cast<size_t>(count));
  double top = -INFINITY;
  for (int64_t t = 0; t < count; ++t) {
    const bool packed = stored && t < stored->heads[kv_head].seen[static_cast<size_t>(query)];
    const AlignedVector<float>& x = (packed ? *stored : exact).heads[kv_head].x;
    double dot = 0;
    for (int64_t c = 0; c < input.head_dim; ++c) {
      dot += static_cast<double>(q[c]) *
             static_cast<double>(x[static_cast<size_t>(stored_index(input, Side::kKey, t, c))]);
    }
    p[static_cast<size_t>(t)] = dot;
    top = std::max(top, dot);
  }
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - top);
  for (double& x : p) x /= sum;
  return p;
}

}  // namespace lowkey
