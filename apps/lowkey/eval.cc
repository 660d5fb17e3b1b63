// lowkey eval: one table, what each precision costs.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "eval/evaluate.h"
#include "eval_choices.h"
#include "eval_mt_bench.h"
#include "eval_task.h"
#include "model_options.h"
#include "progress_bar.h"
#include "prompt_beginning.h"
#include "table.h"
#include "terminal.h"
#include "units.h"
#include "verbs.h"

namespace lowkey {
namespace {

constexpr size_t kLongLabel = 16;  // longer recipes get a letter, and a line below the table
constexpr int64_t kUsualCtx = 1024;
constexpr int64_t kPaperCtx = 2048;  // IntactKV's, and of most papers on quantized weights
constexpr int kShownBeginning = 28;  // columns

double delta_percent(const EvaluatedRecipe& row, const EvaluatedRecipe& reference) {
  return (row.summary.perplexity / reference.summary.perplexity - 1) * 100;
}

// Numbers over five decades, in the fewest columns that keep two digits.
std::string small(double value) {
  if (value == 0) return "0";
  if (value < 0.0001) return fmt::format("{:.0e}", value);
  return value < 0.01 ? fmt::format("{:.5f}", value) : fmt::format("{:.4f}", value);
}

// Of the tokens as the model got them, windows one after the other, 32 bits each, little-endian:
// whoever measures another engine can tell that it got the same (bench/quality).
std::string sha256_of_windows(std::span<const int32_t> tokens, const EvaluateOptions& options,
                              int64_t windows) {
  std::string bytes;
  for (int64_t w = 0; w < windows; ++w) {
    for (const int32_t token : window_tokens(tokens, options, w)) {
      for (int shift : {0, 8, 16, 24}) bytes += static_cast<char>(token >> shift & 0xff);
    }
  }
  return sha256_hex(bytes);
}

// How windows begin. The protocol of the IntactKV paper: the beginning-of-text token first, what it
// predicts not counted. Otherwise as the tokenizer's file asks, which counts everything.
void begin_windows(const EvalOptions& asked, const Engine& engine, EvaluateOptions& options) {
  const TokenizerSpec& spec = engine.tokenizer().spec();
  if (asked.begin_with) {
    options.begin_with = beginning_tokens(*asked.begin_with, engine);
    options.skip_first = true;
  } else if (asked.bos || asked.paper) {
    const std::string bos = asked.bos.value_or("model");
    options.begin_with = {bos == "model" ? spec.bos : static_cast<int32_t>(std::stol(bos))};
    if (options.begin_with[0] < 0) {
      fail(ErrorCode::kInvalidArgument,
           "{}: its tokenizer names no beginning-of-text token: say which with --bos=ID, or "
           "--begin-with TEXT",
           engine.file().path().string());
    }
    options.skip_first = true;
  } else if (spec.add_bos) {
    options.begin_with = {spec.bos};
  }
}

// What the figures depend on and tables of papers do not say; nothing where nothing was asked for.
std::string beginning_line(const EvaluateOptions& options, const Tokenizer& tokenizer) {
  if (!options.skip_first) return "";
  const size_t count = options.begin_with.size();
  return fmt::format(
      "windows begin with {} token{} ({}); what the last of them predicts is not scored\n", count,
      count == 1 ? "" : "s",
      shown_text(tokenizer.decode(options.begin_with, true), kShownBeginning));
}

struct Report {
  const EvalOptions& options;
  const EvaluateOptions& windows;
  const Evaluation& evaluation;
  const Engine& engine;
  std::string text_sha256, tokens_sha256;

  std::vector<const EvaluatedRecipe*> rows() const {
    std::vector<const EvaluatedRecipe*> all = {&evaluation.reference};
    for (const EvaluatedRecipe& row : evaluation.recipes) all.push_back(&row);
    return all;
  }

  std::string table(const Terminal& terminal) const {
    using Align = Table::Align;
    std::vector<Table::Column> columns = {{"KV cache", Align::kLeft},  {"ppl", Align::kRight},
                                          {"change", Align::kRight},   {"KL mean", Align::kRight},
                                          {"KL 99.9%", Align::kRight}, {"top-1", Align::kRight},
                                          {"code", Align::kRight},     {"stored", Align::kRight},
                                          {"B/token", Align::kRight},  {"smaller", Align::kRight}};
    const bool speed = evaluation.reference.tokens_per_second > 0;
    if (speed) columns.push_back({"tok/s", Align::kRight});
    Table table(columns);
    Legend legend(kLongLabel);
    for (const EvaluatedRecipe* row : rows()) {
      const bool reference = row == &evaluation.reference;
      std::vector<std::string> cells = {
          legend.label(row->label),
          fmt::format("{:.2f}", row->summary.perplexity),
          reference ? "" : fmt::format("{:+.2f}%", delta_percent(*row, evaluation.reference)),
          reference ? "" : small(row->summary.kl_mean),
          reference ? "" : small(row->summary.kl_p999),
          reference ? "" : fmt::format("{:.1f}%", row->summary.top1_agreement * 100),
          fmt::format("{:.2f}", row->code_bits),
          fmt::format("{:.2f}", row->stored_bits),
          with_separators(std::llround(row->bytes_per_token)),
          fmt::format("{:.2f}x", evaluation.reference.bytes_per_token / row->bytes_per_token)};
      if (speed) cells.push_back(fmt::format("{:.1f}", row->tokens_per_second));
      table.add_row(std::move(cells));
    }
    return table.text(terminal) + legend.text();
  }

  std::string json() const {
    nlohmann::ordered_json array = nlohmann::ordered_json::array();
    for (const EvaluatedRecipe* row : rows()) {
      nlohmann::ordered_json object = {
          {"recipe", row->label},
          {"ppl", row->summary.perplexity},
          {"ppl_delta_percent", delta_percent(*row, evaluation.reference)},
          {"kl_mean", row->summary.kl_mean},
          {"kl_p999", row->summary.kl_p999},
          {"top1_agreement", row->summary.top1_agreement},
          {"code_bits", row->code_bits},
          {"stored_bits", row->stored_bits},
          {"bytes_per_token", row->bytes_per_token},
          {"tokens_per_second", nullptr},
          {"text_sha256", text_sha256},
          {"tokens_sha256", tokens_sha256},
          {"compression", evaluation.reference.bytes_per_token / row->bytes_per_token},
          {"model", engine.file().path().filename().string()},
          {"weights", weight_storage_name(engine.weight_storage())},
          {"protocol", options.paper ? "paper" : ""},
          {"ctx", windows.ctx},
          {"begin_with", windows.begin_with},
          {"skip_first", windows.skip_first},
          {"windows", evaluation.windows},
          {"scored_tokens", evaluation.scored_tokens},
          {"window_nll", row->window_nll},
      };
      if (row->tokens_per_second > 0) object["tokens_per_second"] = row->tokens_per_second;
      array.push_back(std::move(object));
    }
    return array.dump(2) + "\n";
  }
};

}  // namespace

int eval_verb(const EvalOptions& options) {
  if (options.task) return eval_task(options);
  if (options.choices) return eval_choices(options);
  if (options.mt_bench) return eval_mt_bench(options);
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  for (const std::string& text : options.kv)
    checked_recipe(text);  // said at once, not after loading
  const std::string text = read_file(options.text);
  const std::string text_sha256 = sha256_hex(text);

  ProgressBar bar;
  Engine engine(options.model, {weight_storage(options.weights), options.threads, 0},
                bar.callback());
  std::vector<CacheSpec> recipes;
  for (const std::string& kv : options.kv) {
    // The reference is always measured; asking for it changes nothing.
    if (parse_recipe(kv) != parse_recipe("16")) recipes.push_back(recipe_for(kv, engine));
  }
  // Loading a text as it is: no role markers, and a beginning-of-text token per window, not here.
  std::vector<int32_t> tokens = engine.tokenizer().encode(text, SpecialTokens::kIgnore, false);
  if (options.tokens && static_cast<size_t>(*options.tokens) < tokens.size()) {
    tokens.resize(static_cast<size_t>(*options.tokens));
  }
  EvaluateOptions evaluate_options;
  evaluate_options.ctx = options.ctx.value_or(options.paper ? kPaperCtx : kUsualCtx);
  evaluate_options.stride = options.stride.value_or(0);
  evaluate_options.max_windows = options.chunks.value_or(0);
  evaluate_options.decode_tokens = options.decode_tokens;
  begin_windows(options, engine, evaluate_options);

  const Evaluation evaluation =
      evaluate(engine.model(), tokens, recipes, evaluate_options, engine.pool(), bar.callback());
  bar.clear();

  const Report report{options,     evaluate_options,
                      evaluation,  engine,
                      text_sha256, sha256_of_windows(tokens, evaluate_options, evaluation.windows)};
  fmt::print("{} on {} (sha256 {}…): {} tokens scored in {} window{} of {}\n",
             engine.file().path().filename().string(),
             std::filesystem::path(options.text).filename().string(), text_sha256.substr(0, 12),
             with_separators(evaluation.scored_tokens), evaluation.windows,
             evaluation.windows == 1 ? "" : "s", with_separators(evaluate_options.ctx));
  fmt::print("{}", beginning_line(evaluate_options, engine.tokenizer()));
  fmt::print("{}; bits and bytes at {} tokens\n\n", describe_engine(engine),
             with_separators(evaluate_options.ctx));
  fmt::print("{}", report.table(terminal));
  if (options.json_file) write_file_atomically(*options.json_file, report.json());
  return 0;
}

}  // namespace lowkey
