// lowkey probe: where the error of a quantized cache comes from, layer by layer.
#include "probe/probe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/files.h"
#include "load/utf8.h"
#include "model_options.h"
#include "probe/probe_json.h"
#include "probe/sensitivity.h"
#include "probe_pivots.h"
#include "probe_subject.h"
#include "progress_bar.h"
#include "report/report.h"
#include "table.h"
#include "terminal.h"
#include "units.h"
#include "verbs.h"

namespace lowkey {
namespace {

constexpr size_t kErrorColumns = 5;  // of e_o
constexpr size_t kWidthColumns = 2;  // of e_k, and of e_v
constexpr size_t kMostPivots = 4;    // written out

std::vector<LayerCandidate> candidates_of(const ProbeVerbOptions& options) {
  if (!options.kv.empty()) return parse_candidates(fmt::format("{}", fmt::join(options.kv, ",")));
  CandidateSpace space;
  space.modes = {options.per_token ? CandidateMode::kPerToken : CandidateMode::kKivi};
  space.bits = options.bits;
  return make_candidates(space);
}

// Chunks of the text as it is, one after the other, with a beginning-of-text token in place of
// their first where the model wants one: as eval cuts its windows.
std::vector<Document> cut(const ProbeSubject& subject) {
  const ProbeVerbOptions& options = subject.options;
  const Engine& engine = subject.engine;
  const std::string name = subject.texts_name();
  const std::vector<int32_t> tokens =
      engine.tokenizer().encode(subject.text, SpecialTokens::kIgnore, false);
  const int64_t chunks = std::min(options.chunks, std::ssize(tokens) / options.ctx);
  if (chunks == 0) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens are fewer than one chunk of {}: use a longer text or a smaller --ctx", name,
         tokens.size(), options.ctx);
  }
  const TokenizerSpec& spec = engine.tokenizer().spec();
  std::vector<Document> documents = window_documents(tokens, options.ctx, chunks, name + " chunk");
  for (Document& document : documents) {
    if (spec.add_bos) document.tokens[0] = spec.bos;
  }
  return documents;
}

// The first conversations that the model had with itself, cut to the same number of tokens.
std::vector<Document> spoken(const ProbeSubject& subject) {
  const int64_t ctx = subject.options.ctx;
  tune::SetFiller filler(ctx * subject.options.chunks);
  for (const tune::Conversation& conversation : subject.conversations) {
    filler.add(tune::chat_document(subject.engine, conversation, ctx));
  }
  return filler.take().calibration;
}

// One row per layer: what it loses alone, and what is left when it alone is spared.
std::string sensitivity_text(const std::vector<LayerSensitivity>& all, const Terminal& terminal) {
  constexpr auto kRight = Table::Align::kRight;
  const std::string& label = all[0].candidate;
  Table table({{"layer", kRight},
               {label + " alone: KL", kRight},
               {"ppl", kRight},
               {label + " but for it: KL", kRight},
               {"ppl", kRight}});
  const size_t layers = all.size() / 2;
  for (size_t l = 0; l < layers; ++l) {
    table.add_row({fmt::format("{}", l), fmt::format("{:.5f}", all[l].kl),
                   fmt::format("{:+.2f}%", all[l].ppl_delta_percent),
                   fmt::format("{:.5f}", all[layers + l].kl),
                   fmt::format("{:+.2f}%", all[layers + l].ppl_delta_percent)});
  }
  return table.text(terminal);
}

// A share in percent, in few columns.
std::string percent(double share) {
  const double x = share * 100;
  return fmt::format("{:.{}f}", x, x < 0.995 ? 2 : x < 9.95 ? 1 : 0);
}

class Report {
 public:
  Report(const ProbeResult& result, std::span<const LayerCandidate> candidates)
      : result_(result), candidates_(candidates) {
    for (const char* label : {"KV8", "K8V4", "KV4", "K4V2", "KV2"}) {
      for (size_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].label == label) shown_.push_back(i);
      }
    }
    for (size_t i = 0; i < candidates.size() && shown_.size() < 2; ++i) {
      if (std::find(shown_.begin(), shown_.end(), i) == shown_.end()) shown_.push_back(i);
    }
    if (shown_.size() > kErrorColumns) shown_.resize(kErrorColumns);
    for (Side side : {Side::kKey, Side::kValue}) add_widths(side);
  }

  std::string table(const Terminal& terminal) const {
    using Align = Table::Align;
    std::vector<Table::Column> columns = {{"layer", Align::kRight}};
    for (const Width& width : widths_) {
      columns.push_back(
          {fmt::format("{} {}b", width.side == Side::kKey ? "e_k" : "e_v", width.bits),
           Align::kRight});
    }
    Legend legend(9);
    for (size_t i : shown_) {
      columns.push_back({"e_o " + legend.label(candidates_[i].label), Align::kRight});
    }
    columns.push_back({"entropy", Align::kRight});
    columns.push_back({"sink", Align::kRight});
    Table table(columns);
    const std::vector<size_t> sensitive = most_sensitive();
    for (size_t l = 0; l < result_.layers.size(); ++l) {
      const bool marked = std::find(sensitive.begin(), sensitive.end(), l) != sensitive.end();
      std::vector<std::string> cells = {fmt::format("{}{}", marked ? "*" : "", l)};
      const LayerProbe& layer = result_.layers[l];
      for (const Width& width : widths_) {
        const CandidateErrors& errors = layer.candidates[width.candidate];
        cells.push_back(percent(width.side == Side::kKey ? errors.e_k : errors.e_v));
      }
      for (size_t i : shown_) cells.push_back(percent(layer.candidates[i].e_o));
      cells.push_back(fmt::format("{:.2f}", layer.mean.entropy));
      cells.push_back(percent(layer.mean.sink_share));
      table.add_row(std::move(cells));
    }
    return table.text(terminal) + legend.text();
  }

  // What the table does not show, in a few lines.
  std::string summary(const Tokenizer& tokenizer) const {
    return fmt::format(
               "*: the most sensitive layers, by e_o in all columns. Means over heads; "
               "errors in percent.\n\n") +
           axes() + noise() + growth() + pivots(tokenizer);
  }

 private:
  struct Width {
    Side side;
    int32_t bits;
    size_t candidate;
  };

  // The fewest bits, and the candidate that shows them.
  void add_widths(Side side) {
    std::map<int32_t, size_t> first;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const LayerRecipe& layer = candidates_[i].layer;
      const SideRecipe& recipe = side == Side::kKey ? layer.k : layer.v;
      if (recipe.packed()) first.try_emplace(recipe.bits, i);
    }
    std::vector<Width> widths;
    for (const auto& [bits, candidate] : first) {
      if (widths.size() < kWidthColumns) widths.push_back({side, bits, candidate});
    }
    widths_.insert(widths_.end(), widths.rbegin(), widths.rend());
  }

  template <typename Value>
  double mean_of_layers(Value value) const {
    double sum = 0;
    for (const LayerProbe& layer : result_.layers) sum += value(layer);
    return sum / static_cast<double>(result_.layers.size());
  }

  // A sixth of the layers, by the sum of their e_o, each column in units of its mean.
  std::vector<size_t> most_sensitive() const {
    std::vector<double> scores(result_.layers.size(), 0.0);
    for (size_t i : shown_) {
      const double mean =
          mean_of_layers([i](const LayerProbe& layer) { return layer.candidates[i].e_o; });
      for (size_t l = 0; l < scores.size() && mean > 0; ++l) {
        scores[l] += result_.layers[l].candidates[i].e_o / mean;
      }
    }
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    order.resize((order.size() + 5) / 6);
    return order;
  }

  // "keys quantized per token: 71% of them lost at 2 bits ..." for both sides and axes.
  std::string axes() const {
    const std::vector<AxisErrors>& all = result_.layers[0].axes;
    std::string text =
        "one side alone, along either axis, in groups of 32 (its own error, then e_o):\n";
    for (size_t a = 0; a < all.size(); ++a) {
      if (a == 0 || all[a].axis != all[a - 1].axis || all[a].side != all[a - 1].side) {
        text += fmt::format("{}  {:<6} {:<12}", a == 0 ? "" : "\n",
                            all[a].side == Side::kKey ? "keys" : "values",
                            all[a].axis == QuantAxis::kPerToken ? "per token" : "per channel");
      }
      const double error = mean_of_layers([a](const LayerProbe& l) { return l.axes[a].error; });
      const double e_o = mean_of_layers([a](const LayerProbe& l) { return l.axes[a].e_o; });
      text += fmt::format("   {}b {:>4}, {:>4}", all[a].bits, percent(error), percent(e_o));
    }
    return text + "\n";
  }

  std::string noise() const {
    std::string text;
    for (size_t i = 0; i < result_.layers[0].score_noise.size(); ++i) {
      const double predicted =
          mean_of_layers([i](const LayerProbe& l) { return l.score_noise[i].predicted; });
      const double measured =
          mean_of_layers([i](const LayerProbe& l) { return l.score_noise[i].measured; });
      text +=
          fmt::format("{} {}b {:.3f}/{:.3f}", i == 0 ? "noise of scores, predicted/measured:" : ",",
                      result_.layers[0].score_noise[i].bits, predicted, measured);
    }
    return text.empty() ? text : text + "\n";
  }

  std::string growth() const {
    std::string text;
    for (const DepthGrowth& growth : result_.depth) {
      text += fmt::format(
          "{}: the last layer's output is {}% off; independent errors would make it {}%\n",
          growth.recipe, percent(growth.relative_error.back()), percent(growth.independent.back()));
    }
    return text;
  }

  // The largest few; the rest by number.
  std::string pivots(const Tokenizer& tokenizer) const {
    if (result_.pivots.empty()) return "pivot tokens (massive activations): none\n";
    std::vector<const Pivot*> largest;
    for (const Pivot& pivot : result_.pivots) largest.push_back(&pivot);
    std::stable_sort(largest.begin(), largest.end(),
                     [](const Pivot* a, const Pivot* b) { return a->ratio > b->ratio; });
    std::string text = fmt::format(
        "pivot tokens (massive activations): {}{}\n", largest.size(),
        largest.size() > kMostPivots ? fmt::format(", the largest {}:", kMostPivots) : "");
    if (largest.size() > kMostPivots) largest.resize(kMostPivots);
    for (const Pivot* pivot : largest) {
      std::string token = utf8_replace_invalid(tokenizer.decode({&pivot->token, 1}, true));
      std::replace_if(
          token.begin(), token.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
      text +=
          fit(fmt::format("  {}, position {} '{}': channel {} at {}x the median, from layer {} on",
                          pivot->document, pivot->position, token, pivot->channels.at(0),
                          with_separators(std::llround(pivot->ratio)), pivot->layer),
              kMaxTableWidth) +
          "\n";
    }
    return text;
  }

  const ProbeResult& result_;
  std::span<const LayerCandidate> candidates_;
  std::vector<size_t> shown_;
  std::vector<Width> widths_;
};

}  // namespace

int probe_verb(const ProbeVerbOptions& options) {
  if (options.pivots) return probe_pivots(options);
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  // What can be refused is, before the model is loaded.
  const std::vector<LayerCandidate> candidates = candidates_of(options);
  ProgressBar bar;
  ProbeSubject subject(options, bar.callback());
  Engine& engine = subject.engine;
  const std::vector<Document> documents = options.text ? cut(subject) : spoken(subject);
  ProbeOptions probe_options;
  probe_options.intact_prefix = options.intact;
  probe_options.max_queries = options.queries;
  const ProbeResult result =
      probe(engine.model(), documents, candidates, probe_options, engine.pool(), bar.callback());
  std::vector<LayerSensitivity> sensitivity;
  if (options.sensitivity) {
    Scorer scorer(engine.model(), documents, engine.pool(), {}, bar.callback());
    const std::vector<LayerCandidate> lowest = {candidates.back()};
    sensitivity =
        layer_sensitivity(scorer, engine.kv_shape(), lowest, options.intact, bar.callback());
  }
  bar.clear();

  const std::string model = subject.name();
  fmt::print("{} on {}: {} tokens in {} chunk{}, {} queries\n{}\n\n", model, subject.texts_name(),
             with_separators(result.tokens), documents.size(), documents.size() == 1 ? "" : "s",
             with_separators(result.queries), describe_engine(engine));
  const Report report(result, candidates);
  fmt::print("{}{}", report.table(terminal), report.summary(engine.tokenizer()));
  if (!sensitivity.empty()) fmt::print("\n{}", sensitivity_text(sensitivity, terminal));
  if (!options.json_file && !options.report_file) return 0;
  const std::string json =
      probe_json(result, model, engine.tokenizer(), sensitivity).dump(1) + "\n";
  if (options.json_file) write_file_atomically(*options.json_file, json);
  if (options.report_file) write_file_atomically(*options.report_file, probe_report_html(json));
  return 0;
}

}  // namespace lowkey
