#include "probe_pivots.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "eval/chat_prefix.h"
#include "eval/scorer.h"
#include "load/utf8.h"
#include "model_options.h"
#include "probe/pivot_study.h"
#include "probe/prefix_error.h"
#include "probe_subject.h"
#include "progress_bar.h"
#include "prompt_beginning.h"
#include "report/report.h"
#include "table.h"
#include "terminal.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;
using Texts = std::vector<std::vector<int32_t>>;

constexpr size_t kMostRows = 12;     // of a table
constexpr size_t kMostChannels = 3;  // written out
constexpr int kTokenWidth = 16;      // columns
constexpr double kDrop = 0.5;        // an error that falls below so much of the one before

// Texts that begin alike: with the BOS token, or as the chat template begins.
struct Form {
  std::string name;
  std::vector<int32_t> beginning;
  std::vector<Document> documents;
  PivotStudy study;
  std::vector<PrefixError> errors;
};

// Texts without their beginnings: what the forms begin in their own ways.
Texts texts_of(const ProbeSubject& subject) {
  const ProbeVerbOptions& options = subject.options;
  const Engine& engine = subject.engine;
  Texts texts;
  if (options.text) {
    const std::vector<int32_t> tokens =
        engine.tokenizer().encode(subject.text, SpecialTokens::kIgnore, false);
    for (const Document& document :
         window_documents(tokens, options.ctx, options.chunks, "chunk")) {
      texts.push_back(document.tokens);
    }
    if (texts.empty()) {
      fail(ErrorCode::kInvalidArgument,
           "{}: {} tokens are fewer than one chunk of {}: use a longer text or a smaller --ctx",
           *options.text, tokens.size(), options.ctx);
    }
    return texts;
  }
  const auto before = std::ssize(chat_prefix(engine));
  for (const tune::Conversation& conversation : subject.conversations) {
    if (std::ssize(texts) == options.chunks) break;
    const Document document = tune::chat_document(engine, conversation, options.ctx);
    if (std::ssize(document.tokens) <= before) continue;
    texts.emplace_back(document.tokens.begin() + before, document.tokens.end());
  }
  return texts;
}

std::vector<Form> forms_of(const Texts& texts, const Engine& engine, int64_t ctx) {
  std::vector<Form> forms;
  const int32_t bos = engine.tokenizer().spec().bos;
  if (bos >= 0) forms.push_back({"bos", {bos}, {}, {}, {}});
  if (engine.has_chat_template()) forms.push_back({"chat", chat_prefix(engine), {}, {}, {}});
  if (forms.empty()) forms.push_back({"text", {}, {}, {}, {}});
  for (Form& form : forms) {
    for (size_t i = 0; i < texts.size(); ++i) {
      Document document{fmt::format("{} {}", form.name, i + 1), form.beginning, {}};
      document.tokens.insert(document.tokens.end(), texts[i].begin(), texts[i].end());
      document.tokens.resize(std::min(document.tokens.size(), static_cast<size_t>(ctx)));
      form.documents.push_back(std::move(document));
    }
  }
  return forms;
}

// A token's place in all documents of a form.
struct PivotRow {
  const PivotToken* largest = nullptr;
  size_t documents = 0;  // where it is massive
  double attention = 0, attention_peak = 0;
};

std::vector<PivotRow> rows_of(const PivotStudy& study) {
  std::map<int64_t, PivotRow> rows;
  for (const PivotDocument& document : study.documents) {
    for (const PivotToken& token : document.found) {
      PivotRow& row = rows[token.position];
      if (!row.largest || token.magnitude > row.largest->magnitude) row.largest = &token;
      row.documents += token.massive ? 1 : 0;
      row.attention += token.attention / static_cast<double>(study.documents.size());
      row.attention_peak = std::max(row.attention_peak, token.attention_peak);
    }
  }
  std::vector<PivotRow> all;
  for (const auto& [position, row] : rows) all.push_back(row);
  // Those that most documents agree on first, then the largest.
  std::stable_sort(all.begin(), all.end(), [](const PivotRow& a, const PivotRow& b) {
    if (a.documents != b.documents) return a.documents > b.documents;
    return a.largest->magnitude > b.largest->magnitude;
  });
  return all;
}

std::string pivot_table(const Form& form, const Tokenizer& tokenizer, const Terminal& terminal) {
  using Align = Table::Align;
  Table table({{"position", Align::kRight},
               {"token", Align::kLeft},
               {"layers", Align::kLeft},
               {"channels", Align::kLeft},
               {"magnitude", Align::kRight},
               {"usual", Align::kRight},
               {"in layer", Align::kRight},
               {"attention", Align::kRight},
               {"at most", Align::kRight},
               {"texts", Align::kRight}});
  std::vector<PivotRow> rows = rows_of(form.study);
  const size_t total = rows.size();
  rows.resize(std::min(rows.size(), kMostRows));
  for (const PivotRow& row : rows) {
    const PivotToken& token = *row.largest;
    std::vector<int32_t> channels = token.channels;
    channels.resize(std::min(channels.size(), kMostChannels));
    const bool massive = token.massive;
    table.add_row({fmt::format("{}", token.position),
                   shown_text(tokenizer.decode({&token.token, 1}, true), kTokenWidth),
                   massive ? fmt::format("{}-{}", token.first_layer, token.last_layer) : "",
                   fmt::format("{}", fmt::join(channels, ",")),
                   massive ? with_separators(std::llround(token.magnitude)) : "",
                   massive ? fmt::format("{:.3g}", token.typical) : "",
                   massive ? fmt::format("{}", token.peak_layer) : "",
                   fmt::format("{:.1f}%", row.attention * 100),
                   fmt::format("{:.1f}%", row.attention_peak * 100),
                   fmt::format("{}/{}", row.documents, form.study.documents.size())});
  }
  std::string text = table.text(terminal);
  if (total > rows.size()) text += fmt::format("and {} more\n", total - rows.size());
  return text;
}

std::string advice(const Form& form) {
  const auto prefix = form.study.prefix;
  if (prefix == 0) return "no token is massive in most of these texts: no prefix is recommended\n";
  return fmt::format(
      "recommended prefix: {} token{}. --kv 16+i{} keeps {} exact in the cache; for quantized "
      "weights\n'lowkey calibrate MODEL --what intact' makes a file of the 16-bit model's\n",
      prefix, prefix == 1 ? "" : "s", prefix, prefix == 1 ? "it" : "them");
}

std::string error_table(const Form& form, const Terminal& terminal) {
  using Align = Table::Align;
  Table table({{"exact prefix", Align::kRight},
               {"error of hidden states", Align::kRight},
               {"KL", Align::kRight},
               {"of none", Align::kRight},
               {"", Align::kLeft}});
  for (size_t i = 0; i < form.errors.size(); ++i) {
    const PrefixError& error = form.errors[i];
    const bool drops = i > 0 && error.kl < kDrop * form.errors[i - 1].kl;
    const double of_none = form.errors[0].kl > 0 ? error.kl / form.errors[0].kl : 1;
    table.add_row({fmt::format("{}", error.length),
                   std::isnan(error.hidden) ? "rotated" : fmt::format("{:.5f}", error.hidden),
                   fmt::format("{:.5f}", error.kl), fmt::format("{:.1f}%", of_none * 100),
                   drops ? "drops" : ""});
  }
  return table.text(terminal);
}

Json token_json(const PivotToken& token, const Tokenizer& tokenizer) {
  return {{"position", token.position},
          {"id", token.token},
          {"token", utf8_replace_invalid(tokenizer.decode({&token.token, 1}, true))},
          {"massive", token.massive},
          {"first_layer", token.first_layer},
          {"last_layer", token.last_layer},
          {"peak_layer", token.peak_layer},
          {"channels", token.channels},
          {"magnitude", token.magnitude},
          {"typical", token.typical},
          {"attention", token.attention},
          {"attention_peak", token.attention_peak},
          {"attention_layer", token.attention_layer}};
}

Json form_json(const Form& form, const Tokenizer& tokenizer) {
  Json documents = Json::array(), errors = Json::array();
  for (const PivotDocument& document : form.study.documents) {
    Json found = Json::array();
    for (const PivotToken& token : document.found) found.push_back(token_json(token, tokenizer));
    documents.push_back({{"name", document.name},
                         {"tokens", document.tokens},
                         {"found", std::move(found)},
                         {"pivot_attention", document.pivot_attention}});
  }
  for (const PrefixError& error : form.errors) {
    errors.push_back({{"length", error.length}, {"hidden", error.hidden}, {"kl", error.kl}});
  }
  return {{"form", form.name},
          {"beginning", form.beginning},
          {"prefix", form.study.prefix},
          {"documents", std::move(documents)},
          {"errors", std::move(errors)}};
}

}  // namespace

int probe_pivots(const ProbeVerbOptions& options) {
  const Terminal terminal = detect_terminal(stdout, options.no_color);
  ProgressBar bar;
  ProbeSubject subject(options, bar.callback());
  Engine& engine = subject.engine;
  std::vector<Form> forms = forms_of(texts_of(subject), engine, options.ctx);
  for (Form& form : forms) {
    form.study = study_pivots(engine.model(), form.documents, engine.pool(), bar.callback());
  }
  std::string against;
  if (options.against) {
    Engine quantized(*options.against, {weight_storage(options.weights), options.threads, 0},
                     bar.callback());
    against = quantized.file().path().filename().string();
    const std::vector<int64_t> lengths = prefix_lengths(options.prefix);
    for (Form& form : forms) {
      form.errors = prefix_errors(engine, quantized, form.documents, lengths, bar.callback());
    }
  }
  bar.clear();

  const std::string model = subject.name();
  fmt::print("{} on {}; {}\n", model, subject.texts_name(), describe_engine(engine));
  for (const Form& form : forms) {
    fmt::print("\n{} text{} that begin{} with {} token{} ({})\n\n", form.documents.size(),
               form.documents.size() == 1 ? "" : "s", form.documents.size() == 1 ? "s" : "",
               form.beginning.size(), form.beginning.size() == 1 ? "" : "s",
               shown_text(engine.tokenizer().decode(form.beginning, true), 3 * kTokenWidth));
    fmt::print("{}\n{}", pivot_table(form, engine.tokenizer(), terminal), advice(form));
    if (form.errors.empty()) continue;
    fmt::print("\n{} against {}, by the length of the prefix that is the latter's:\n\n{}", against,
               model, error_table(form, terminal));
  }
  fmt::print(
      "\nlayers: before which the token is massive; usual: what tokens reach there; attention: "
      "the\n"
      "share that queries {} and more tokens later give it, the mean and the most of a layer\n",
      kSinkDistance);
  if (!options.json_file && !options.report_file) return 0;
  Json all = Json::array();
  for (const Form& form : forms) all.push_back(form_json(form, engine.tokenizer()));
  const Json document = {{"lowkey_pivots", 1},
                         {"model", utf8_replace_invalid(model)},
                         {"against", utf8_replace_invalid(against)},
                         {"num_layers", engine.file().config().num_layers},
                         {"forms", std::move(all)}};
  const std::string json = document.dump(1) + "\n";
  if (options.json_file) write_file_atomically(*options.json_file, json);
  if (options.report_file) write_file_atomically(*options.report_file, pivots_report_html(json));
  return 0;
}

}  // namespace lowkey
