#include "probe/probe.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "cache/kv_cache.h"
#include "core/error.h"
#include "linear/matmul.h"
#include "model/kv_shape.h"
#include "probe/layer_errors.h"
#include "probe/pivots.h"
#include "probe/plan.h"
#include "probe/stored_side.h"
#include "recipe/bytes.h"

namespace lowkey {
namespace {

constexpr int64_t kMatmulRows = 256;
constexpr size_t kAblationStride = 4;  // queries of which it takes one
constexpr size_t kShiftLayers = 4;     // shown with their attention's shift
constexpr size_t kKeyTokens = 10;      // per shift
// What a layer of the exact pass takes, in layers of a pass that is only compared.
constexpr int64_t kExactPassWeight = 8;

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

std::vector<double> norms(const std::vector<float>& rows, size_t count) {
  std::vector<double> all(count);
  const size_t width = rows.size() / count;
  for (size_t i = 0; i < count; ++i) {
    double sum = 0;
    for (size_t c = 0; c < width; ++c) {
      sum += static_cast<double>(rows[i * width + c]) * static_cast<double>(rows[i * width + c]);
    }
    all[i] = std::sqrt(sum);
  }
  return all;
}

// Rows `positions` of x [rows, width].
std::vector<float> select_rows(const float* x, std::span<const int64_t> positions, int64_t width) {
  std::vector<float> rows;
  rows.reserve(positions.size() * static_cast<size_t>(width));
  for (int64_t position : positions) {
    rows.insert(rows.end(), x + position * width, x + (position + 1) * width);
  }
  return rows;
}

// Who predicts scored tokens, at most so many, evenly spaced, the last one always among them.
std::vector<int64_t> query_positions(const Document& document, int64_t most) {
  std::vector<int64_t> all;
  for (const TokenRange& range : document.scored) {
    for (int64_t target = range.first; target < range.last; ++target) all.push_back(target - 1);
  }
  const int64_t available = std::ssize(all);
  const int64_t count = std::min(most, available);
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < count; ++i) {
    chosen.push_back(all[static_cast<size_t>((i + 1) * available / count - 1)]);
  }
  return chosen;
}

// What all documents add up to, in one layer.
struct LayerTotals {
  std::vector<std::vector<SideErrorSums>> keys, values;  // [form][num_kv_heads]
  ComparisonSums sums;
  std::vector<std::vector<OutputSums>> ablation;  // [form][num_qo_heads]
};

void add(std::vector<std::vector<SideErrorSums>>& totals, const std::vector<StoredSide>& sides) {
  totals.resize(sides.size());
  for (size_t i = 0; i < sides.size(); ++i) {
    totals[i].resize(sides[i].heads.size());
    for (size_t h = 0; h < sides[i].heads.size(); ++h) {
      totals[i][h].error += sides[i].heads[h].sums.error;
      totals[i][h].signed_ += sides[i].heads[h].sums.signed_;
      totals[i][h].magnitude += sides[i].heads[h].sums.magnitude;
    }
  }
}

struct DepthTotals {
  size_t candidate = 0;
  std::string name;
  ResolvedRecipe recipe;
  std::vector<double> relative_error, independent;  // [num_layers + 1], sums over queries
};

// One document's exact pass: every layer is taken apart as it goes by.
class ExactPass final : public StepWatcher {
 public:
  struct Context {
    const Model& model;
    std::span<const LayerCandidate> candidates;
    const ProbeOptions& options;
    const CandidateForms& forms;
    const std::vector<AxisForm>& axes;
    const std::vector<AblationForm>& ablation;
    ThreadPool& pool;
    std::vector<LayerTotals>& totals;
    std::vector<DepthTotals>& depth;
    std::vector<AttentionShift>* shifts;  // of the first document
    std::function<void()> layer_done;
  };

  ExactPass(Context context, std::span<const int64_t> queries)
      : c_(std::move(context)), positions_(queries) {
    for (size_t i = 0; i < queries.size(); i += kAblationStride) few_.push_back(queries[i]);
    independent_.assign(c_.depth.size(), std::vector<double>(queries.size(), 0.0));
  }

  void residual(int32_t layer, const float* x, int64_t rows) override {
    const ModelConfig& config = c_.model.config();
    pivots_.add_layer(layer, x, rows, config.hidden_size);
    residuals_.push_back(select_rows(x, positions_, config.hidden_size));
    const std::vector<double> size = norms(residuals_.back(), positions_.size());
    for (size_t d = 0; d < c_.depth.size(); ++d) {
      for (size_t i = 0; i < size.size(); ++i) {
        c_.depth[d].independent[static_cast<size_t>(layer)] +=
            ratio(std::sqrt(independent_[d][i]), size[i]);
      }
    }
  }

  void attention(int32_t layer, const float* q, const float* k, const float* v,
                 int64_t rows) override {
    const ModelConfig& config = c_.model.config();
    const LayerInput input{k, v, rows, config.num_kv_heads, config.head_dim};
    const StoredSide exact_keys = exact_side(input, Side::kKey);
    const StoredSide exact_values = exact_side(input, Side::kValue);
    candidates_and_axes(layer, input, q, exact_keys, exact_values);
    ablation(layer, input, q, exact_keys, exact_values);
    c_.layer_done();
  }

  // [num_layers + 1][queries, hidden_size]
  const std::vector<std::vector<float>>& residuals() const { return residuals_; }
  std::vector<Pivot> pivots() const { return pivots_.pivots(); }

 private:
  void candidates_and_axes(int32_t layer, const LayerInput& input, const float* q,
                           const StoredSide& exact_keys, const StoredSide& exact_values) {
    const ModelConfig& config = c_.model.config();
    const LayerQueries queries = select_queries(q, positions_, config);
    const size_t half = c_.axes.size() / 2;  // keys, then values
    const size_t num_keys = c_.forms.keys.size(), num_values = c_.forms.values.size();
    std::vector<StoredSide> keys(num_keys + half), values(num_values + half);
    c_.pool.run(std::ssize(keys) + std::ssize(values), [&](int64_t task, int) {
      const auto index = static_cast<size_t>(task);
      if (index < keys.size()) {
        const bool steps = std::count(c_.forms.noise_keys.begin(), c_.forms.noise_keys.end(),
                                      static_cast<int32_t>(index)) > 0;
        keys[index] = index < num_keys
                          ? stored(input, Side::kKey, c_.forms.keys[index], exact_keys, steps)
                          : quantized(input, c_.axes[index - num_keys], exact_keys);
      } else {
        const size_t v = index - keys.size();
        values[v] = v < num_values
                        ? stored(input, Side::kValue, c_.forms.values[v], exact_values, false)
                        : quantized(input, c_.axes[half + v - num_values], exact_values);
      }
    });

    Comparison comparison;
    comparison.exact_keys = &exact_keys;
    comparison.exact_values = &exact_values;
    for (const StoredSide& side : keys) comparison.keys.push_back(&side);
    for (const StoredSide& side : values) comparison.values.push_back(&side);
    comparison.pairs = c_.forms.pairs;
    std::vector<std::vector<float>> output_errors(c_.depth.size());
    for (size_t d = 0; d < c_.depth.size(); ++d) {
      output_errors[d].resize(positions_.size() *
                              static_cast<size_t>(config.num_qo_heads * config.head_dim));
      comparison.pairs[c_.depth[d].candidate].output_error = output_errors[d].data();
    }
    for (size_t a = 0; a < half; ++a) {
      comparison.pairs.push_back({static_cast<int32_t>(num_keys + a), kExact, nullptr});
    }
    for (size_t a = 0; a < half; ++a) {
      comparison.pairs.push_back({kExact, static_cast<int32_t>(num_values + a), nullptr});
    }
    comparison.attention_shape = true;
    comparison.follow = c_.forms.fewest_bits;
    const ComparisonSums sums = compare(input, queries, comparison, c_.pool);

    LayerTotals& totals = c_.totals[static_cast<size_t>(layer)];
    add(totals.keys, keys);
    add(totals.values, values);
    add(totals.sums, sums);
    for (size_t d = 0; d < c_.depth.size(); ++d) inject(layer, d, output_errors[d]);
    if (c_.shifts && shows_shift(layer) && sums.most_shifted.change > 0) {
      c_.shifts->push_back(shift(layer, input, queries, sums.most_shifted, exact_keys, keys));
    }
  }

  StoredSide stored(const LayerInput& input, Side side, const LayerRecipe& layer,
                    const StoredSide& exact, bool steps) const {
    return stored_side(input, side, layer, c_.options.intact_prefix, positions_, exact, steps);
  }
  StoredSide quantized(const LayerInput& input, const AxisForm& form,
                       const StoredSide& exact) const {
    return quantized_side(input, form.side, form.axis, form.bits, c_.options.intact_prefix,
                          positions_, exact);
  }

  // What a layer's error of the attention output adds to the residual stream, squared.
  void inject(int32_t layer, size_t recipe, const std::vector<float>& output_error) {
    const ModelConfig& config = c_.model.config();
    const WeightMatrix& weight = c_.model.weights().layers[static_cast<size_t>(layer)].o.weight;
    const int64_t width = int64_t{config.num_qo_heads} * config.head_dim;
    std::vector<float> added(positions_.size() * static_cast<size_t>(config.hidden_size));
    for (int64_t row = 0; row < std::ssize(positions_); row += kMatmulRows) {
      const MatmulOutput output{&weight, nullptr, added.data() + row * config.hidden_size};
      matmul({output_error.data() + row * width,
              std::min(kMatmulRows, std::ssize(positions_) - row),
              {&output, 1}},
             c_.pool, scratch_);
    }
    const std::vector<double> size = norms(added, positions_.size());
    for (size_t i = 0; i < size.size(); ++i) independent_[recipe][i] += size[i] * size[i];
  }

  bool shows_shift(int32_t layer) const {
    const int64_t last = c_.model.config().num_layers - 1;
    for (size_t i = 0; i < kShiftLayers; ++i) {
      if (layer == static_cast<int64_t>(i) * last / static_cast<int64_t>(kShiftLayers - 1)) {
        return true;
      }
    }
    return false;
  }

  AttentionShift shift(int32_t layer, const LayerInput& input, const LayerQueries& queries,
                       const MostShifted& most, const StoredSide& exact,
                       const std::vector<StoredSide>& keys) const {
    AttentionShift result;
    result.layer = layer;
    result.head = static_cast<int32_t>(most.head);
    result.query = positions_[static_cast<size_t>(most.query)];
    std::map<int32_t, std::vector<double>> all;
    all[16] = attention_of(input, queries, most.query, most.head, exact, nullptr);
    for (int32_t key : c_.forms.noise_keys) {
      all[c_.forms.keys[static_cast<size_t>(key)].k.bits] = attention_of(
          input, queries, most.query, most.head, exact, &keys[static_cast<size_t>(key)]);
    }
    // The tokens with the largest weight under any of them.
    std::vector<double> largest(all[16].size(), 0.0);
    for (const auto& [bits, p] : all) {
      for (size_t t = 0; t < p.size(); ++t) largest[t] = std::max(largest[t], p[t]);
    }
    for (size_t t = 0; t < largest.size(); ++t) {
      result.positions.push_back(static_cast<int64_t>(t));
    }
    std::stable_sort(result.positions.begin(), result.positions.end(), [&](int64_t a, int64_t b) {
      return largest[static_cast<size_t>(a)] > largest[static_cast<size_t>(b)];
    });
    if (result.positions.size() > kKeyTokens) result.positions.resize(kKeyTokens);
    std::sort(result.positions.begin(), result.positions.end());
    for (const auto& [bits, p] : all) {
      for (int64_t t : result.positions) {
        result.scores[bits].push_back(p[static_cast<size_t>(t)]);
      }
    }
    return result;
  }

  // Forms of one width and group at a time: few enough to hold.
  void ablation(int32_t layer, const LayerInput& input, const float* q,
                const StoredSide& exact_keys, const StoredSide& exact_values) {
    if (c_.ablation.empty()) return;
    const ModelConfig& config = c_.model.config();
    const LayerQueries queries = select_queries(q, few_, config);
    std::vector<std::vector<OutputSums>>& totals = c_.totals[static_cast<size_t>(layer)].ablation;
    totals.resize(c_.ablation.size());
    for (size_t first = 0, last; first < c_.ablation.size(); first = last) {
      const AblationPoint& point = c_.ablation[first].point;
      for (last = first; last < c_.ablation.size(); ++last) {
        const AblationPoint& other = c_.ablation[last].point;
        if (other.bits != point.bits || other.group_size != point.group_size) break;
      }
      const size_t count = last - first;
      std::vector<StoredSide> keys(count), values(count);
      c_.pool.run(static_cast<int64_t>(2 * count), [&](int64_t task, int) {
        const auto index = static_cast<size_t>(task) / 2;
        const LayerRecipe& recipe = c_.ablation[first + index].layer;
        const Side side = task % 2 == 0 ? Side::kKey : Side::kValue;
        (side == Side::kKey ? keys : values)[index] =
            stored_side(input, side, recipe, c_.options.intact_prefix, few_,
                        side == Side::kKey ? exact_keys : exact_values, false);
      });
      Comparison comparison;
      comparison.exact_keys = &exact_keys;
      comparison.exact_values = &exact_values;
      for (size_t i = 0; i < count; ++i) {
        comparison.keys.push_back(&keys[i]);
        comparison.values.push_back(&values[i]);
        comparison.pairs.push_back({static_cast<int32_t>(i), static_cast<int32_t>(i), nullptr});
      }
      const ComparisonSums sums = compare(input, queries, comparison, c_.pool);
      for (size_t i = 0; i < count; ++i) add(totals[first + i], sums.pairs[i]);
    }
  }

  Context c_;
  const std::span<const int64_t> positions_;
  std::vector<int64_t> few_;
  PivotFinder pivots_;
  std::vector<std::vector<float>> residuals_;
  std::vector<std::vector<double>> independent_;  // [recipe][query], squared so far
  MatmulScratch scratch_;
};

// A pass on a quantized cache, compared with the exact one's residual stream.
class QuantizedPass final : public StepWatcher {
 public:
  QuantizedPass(const std::vector<std::vector<float>>& exact, std::span<const int64_t> positions,
                int64_t hidden_size, DepthTotals& totals, std::function<void()> layer_done)
      : exact_(exact),
        positions_(positions),
        hidden_size_(hidden_size),
        totals_(totals),
        layer_done_(std::move(layer_done)) {}

  void residual(int32_t layer, const float* x, int64_t) override {
    const auto index = static_cast<size_t>(layer);
    std::vector<float> difference = select_rows(x, positions_, hidden_size_);
    for (size_t i = 0; i < difference.size(); ++i) difference[i] -= exact_[index][i];
    const std::vector<double> error = norms(difference, positions_.size());
    const std::vector<double> size = norms(exact_[index], positions_.size());
    for (size_t i = 0; i < error.size(); ++i) {
      totals_.relative_error[index] += ratio(error[i], size[i]);
    }
    if (layer > 0) layer_done_();
  }

 private:
  const std::vector<std::vector<float>>& exact_;
  const std::span<const int64_t> positions_;
  const int64_t hidden_size_;
  DepthTotals& totals_;
  std::function<void()> layer_done_;
};

class Prober {
 public:
  Prober(Model& model, std::span<const Document> documents,
         std::span<const LayerCandidate> candidates, const ProbeOptions& options, ThreadPool& pool,
         const ProgressFn& progress)
      : model_(model),
        documents_(documents),
        candidates_(candidates),
        options_(options),
        pool_(pool),
        progress_(progress),
        forms_(take_apart(candidates)),
        axes_(axis_forms()),
        num_layers_(model.config().num_layers) {
    check();
    if (options.ablation) ablation_ = ablation_forms(candidates, model.config().head_dim);
    totals_.resize(static_cast<size_t>(num_layers_));
    if (options.depth) {
      for (size_t candidate : depth_candidates(candidates)) add_depth(candidate);
    }
    total_ = std::ssize(documents) * num_layers_ * (kExactPassWeight + std::ssize(depth_));
  }

  ProbeResult run() {
    for (size_t d = 0; d < documents_.size(); ++d) document(documents_[d], d == 0);
    result_.candidates.reserve(candidates_.size());
    for (const LayerCandidate& candidate : candidates_) {
      result_.candidates.push_back(candidate.label);
    }
    for (const LayerTotals& totals : totals_) result_.layers.push_back(layer_result(totals));
    for (DepthTotals& depth : depth_) {
      const auto queries = static_cast<double>(result_.queries);
      for (double& x : depth.relative_error) x /= queries;
      for (double& x : depth.independent) x /= queries;
      result_.depth.push_back(
          {depth.name, std::move(depth.relative_error), std::move(depth.independent)});
    }
    for (size_t i = 0; i < ablation_.size(); ++i) result_.ablation.push_back(ablation_point(i));
    return std::move(result_);
  }

 private:
  KvShape shape() const { return kv_shape(model_.config()); }

  KvRecipe uniform(const LayerRecipe& layer) const {
    return recipe_of_layers(std::vector<LayerRecipe>(static_cast<size_t>(num_layers_), layer),
                            options_.intact_prefix);
  }

  // Everything that can be refused is, before anything runs.
  void check() const {
    if (const char* what = probe_refusal(model_.config())) {
      fail(ErrorCode::kUnsupported, "probe: a model with {} cannot be measured yet", what);
    }
    if (documents_.empty()) fail(ErrorCode::kInvalidArgument, "probe: no text to measure on");
    if (candidates_.empty()) fail(ErrorCode::kInvalidArgument, "probe: no candidates to measure");
    if (options_.max_queries < 1 || options_.intact_prefix < 0) {
      fail(ErrorCode::kInvalidArgument,
           "probe: {} queries and an intact prefix of {}: at least 1 and 0 are needed",
           options_.max_queries, options_.intact_prefix);
    }
    for (const Document& document : documents_) {
      const int64_t tokens = std::ssize(document.tokens);
      if (tokens > model_.config().max_context) {
        fail(ErrorCode::kInvalidArgument,
             "{}: {} tokens are more than the model's context of {}: use a smaller --ctx",
             document.name, tokens, model_.config().max_context);
      }
      bool any = false;
      for (const TokenRange& range : document.scored) {
        any |= range.first < range.last;
        if (range.first < 1 || range.last > tokens || range.first > range.last) {
          fail(ErrorCode::kInvalidArgument, "{}: tokens {} to {} are to be scored, but it has {}",
               document.name, range.first, range.last, tokens);
        }
      }
      if (!any) {
        fail(ErrorCode::kInvalidArgument, "{}: none of its {} tokens is scored", document.name,
             tokens);
      }
    }
    std::set<std::string> labels;
    for (const LayerCandidate& candidate : candidates_) {
      if (!labels.insert(candidate.label).second) {
        fail(ErrorCode::kInvalidArgument, "probe: two candidates are called '{}'", candidate.label);
      }
      resolve_recipe(uniform(candidate.layer), shape());
    }
  }

  void add_depth(size_t candidate) {
    const KvRecipe recipe = uniform(candidates_[candidate].layer);
    DepthTotals depth;
    depth.candidate = candidate;
    depth.name = recipe_to_string(recipe);
    depth.recipe = resolve_recipe(recipe, shape());
    depth.relative_error.assign(static_cast<size_t>(num_layers_) + 1, 0.0);
    depth.independent = depth.relative_error;
    depth_.push_back(std::move(depth));
  }

  void forward(const Document& document, const ResolvedRecipe& recipe, StepWatcher& watcher) {
    KvCache cache(recipe);
    KvSequence sequence = cache.new_sequence();
    hidden_.resize(document.tokens.size() * static_cast<size_t>(model_.config().hidden_size));
    const StepItem item{&sequence, document.tokens, RowsWanted::kAll};
    model_.forward({&item, 1}, hidden_.data(), {.watcher = &watcher});
  }

  void advance(const std::string& what, int64_t by) {
    report(progress_, what, done_ += by, total_);
  }

  void document(const Document& document, bool first) {
    const std::vector<int64_t> positions = query_positions(document, options_.max_queries);
    report(progress_, "measuring layers", done_, total_);
    const size_t first_shift = result_.shifts.size();
    ExactPass exact({model_, candidates_, options_, forms_, axes_, ablation_, pool_, totals_,
                     depth_, first ? &result_.shifts : nullptr,
                     [this] { advance("measuring layers", kExactPassWeight); }},
                    positions);
    forward(document, resolve_recipe(parse_recipe("16"), shape()), exact);
    for (DepthTotals& depth : depth_) {
      QuantizedPass pass(exact.residuals(), positions, model_.config().hidden_size, depth,
                         [&] { advance("measuring growth of " + depth.name, 1); });
      forward(document, depth.recipe, pass);
    }
    for (Pivot pivot : exact.pivots()) {
      pivot.document = document.name;
      pivot.token = document.tokens[static_cast<size_t>(pivot.position)];
      result_.pivots.push_back(std::move(pivot));
    }
    for (size_t i = first_shift; i < result_.shifts.size(); ++i) {
      for (int64_t t : result_.shifts[i].positions) {
        result_.shifts[i].tokens.push_back(document.tokens[static_cast<size_t>(t)]);
      }
    }
    result_.tokens += std::ssize(document.tokens);
    result_.queries += std::ssize(positions);
    longest_ = std::max<int64_t>(longest_, std::ssize(document.tokens));
  }

  static double mean_error(const std::vector<SideErrorSums>& heads) {
    double sum = 0;
    for (const SideErrorSums& head : heads) sum += ratio(head.error, head.magnitude);
    return sum / static_cast<double>(heads.size());
  }
  static double mean_error(const std::vector<OutputSums>& heads) {
    double sum = 0;
    for (const OutputSums& head : heads) sum += ratio(head.error, head.magnitude);
    return sum / static_cast<double>(heads.size());
  }

  CandidateErrors candidate_result(const LayerTotals& totals, size_t index) const {
    const ComparedPair& pair = forms_.pairs[index];
    const std::vector<OutputSums>& outputs = totals.sums.pairs[index];
    const auto num_heads = static_cast<double>(outputs.size());
    const size_t group = outputs.size() / static_cast<size_t>(model_.config().num_kv_heads);
    CandidateErrors errors;
    errors.label = candidates_[index].label;
    errors.heads.resize(outputs.size());
    for (size_t h = 0; h < outputs.size(); ++h) {
      HeadErrors& head = errors.heads[h];
      if (pair.key != kExact) {
        const SideErrorSums& side = totals.keys[static_cast<size_t>(pair.key)][h / group];
        const ScoreSums& scores = totals.sums.keys[static_cast<size_t>(pair.key)][h];
        head.e_k = ratio(side.error, side.magnitude);
        head.e_a = scores.attention_error / static_cast<double>(result_.queries);
        errors.bias_k += ratio(side.signed_, side.magnitude) / num_heads;
        errors.bias_score += ratio(scores.error, scores.magnitude) / num_heads;
      }
      head.e_o = ratio(outputs[h].error, outputs[h].magnitude);
      errors.bias_o += ratio(outputs[h].signed_, outputs[h].magnitude) / num_heads;
      errors.e_k += head.e_k / num_heads;
      errors.e_a += head.e_a / num_heads;
      errors.e_o += head.e_o / num_heads;
    }
    if (pair.value != kExact)
      errors.e_v = mean_error(totals.values[static_cast<size_t>(pair.value)]);
    return errors;
  }

  ScoreNoise noise_result(const LayerTotals& totals, int32_t key) const {
    ScoreSums all;
    for (const ScoreSums& head : totals.sums.keys[static_cast<size_t>(key)]) add(all, head);
    ScoreNoise noise;
    noise.bits = forms_.keys[static_cast<size_t>(key)].k.bits;
    if (all.count == 0) return noise;
    const double mean = all.error / all.count;
    noise.predicted = std::sqrt(all.predicted_variance / all.count);
    noise.measured = std::sqrt(std::max(0.0, all.squared_error / all.count - mean * mean));
    return noise;
  }

  LayerProbe layer_result(const LayerTotals& totals) const {
    LayerProbe layer;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      layer.candidates.push_back(candidate_result(totals, i));
    }
    const size_t half = axes_.size() / 2;
    for (size_t a = 0; a < axes_.size(); ++a) {
      const std::vector<SideErrorSums>& side = a < half
                                                   ? totals.keys[forms_.keys.size() + a]
                                                   : totals.values[forms_.values.size() + a - half];
      layer.axes.push_back({axes_[a].side, axes_[a].axis, axes_[a].bits, mean_error(side),
                            mean_error(totals.sums.pairs[candidates_.size() + a])});
    }
    for (int32_t key : forms_.noise_keys) layer.score_noise.push_back(noise_result(totals, key));
    const auto queries = static_cast<double>(result_.queries);
    const auto num_heads = static_cast<double>(totals.sums.shape.size());
    for (const ShapeSums& sums : totals.sums.shape) {
      const AttentionShape head{sums.entropy / queries, sums.top_share / queries,
                                sums.sink_share / queries};
      layer.heads.push_back(head);
      layer.mean.entropy += head.entropy / num_heads;
      layer.mean.top_share += head.top_share / num_heads;
      layer.mean.sink_share += head.sink_share / num_heads;
    }
    return layer;
  }

  AblationPoint ablation_point(size_t index) const {
    AblationPoint point = ablation_[index].point;
    for (const LayerTotals& totals : totals_) {
      point.e_o += mean_error(totals.ablation[index]) / static_cast<double>(num_layers_);
    }
    point.stored_bits =
        stored_bits(resolve_recipe(uniform(ablation_[index].layer), shape()), longest_);
    return point;
  }

  Model& model_;
  std::span<const Document> documents_;
  std::span<const LayerCandidate> candidates_;
  const ProbeOptions options_;
  ThreadPool& pool_;
  const ProgressFn& progress_;
  const CandidateForms forms_;
  const std::vector<AxisForm> axes_;
  std::vector<AblationForm> ablation_;
  const int64_t num_layers_;
  std::vector<LayerTotals> totals_;
  std::vector<DepthTotals> depth_;
  std::vector<float> hidden_;
  ProbeResult result_;
  int64_t longest_ = 0;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

const char* probe_refusal(const ModelConfig& config) {
  if (!kv_shape(config).windows.empty()) return "sliding windows";
  if (config.attention_softcap != 0) return "softcapped scores";
  if (config.alibi) return "ALiBi";
  if (config.post_norms) return "norms behind attention";
  return nullptr;
}

ProbeResult probe(Model& model, std::span<const Document> documents,
                  std::span<const LayerCandidate> candidates, const ProbeOptions& options,
                  ThreadPool& pool, const ProgressFn& progress) {
  return Prober(model, documents, candidates, options, pool, progress).run();
}

}  // namespace lowkey
