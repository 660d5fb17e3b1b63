// lowkey quantize: a model with its matrices in a few bits, as a folder of its own.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "load/tokenizer.h"
#include "progress_bar.h"
#include "table.h"
#include "terminal.h"
#include "units.h"
#include "verbs.h"
#include "weights/quantized_folder.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

QuantizeOptions method_options(const QuantizeVerbOptions& flags) {
  QuantizeOptions options;
  options.method = flags.method;
  options.grid.bits = checked_cast<int32_t>(flags.bits, "--bits");
  options.grid.group = checked_cast<int32_t>(flags.group, "--group");
  options.grid.f32_params = flags.f32_params;
  options.seed = flags.seed;
  options.rounding = flags.rounding;
  options.activation_bits = checked_cast<int32_t>(flags.activation_bits, "--act-bits");
  if (options.activation_bits != kFloatBits && options.activation_bits > 8) {
    fail(ErrorCode::kInvalidArgument, "--act-bits {}: 2 to 8, or 16: not at all",
         options.activation_bits);
  }
  options.activation_clip = flags.activation_clip;
  options.alpha = flags.alpha;
  options.epochs = checked_cast<int32_t>(flags.epochs, "--epochs");
  options.learning_rate = flags.learning_rate;
  check_bits(find_weight_method(options.method), options.grid);
  return options;
}

// Windows of the text, in its order: `samples` of them, drawn by the seed, or all there are.
std::vector<std::vector<int32_t>> calibration_windows(const ModelFile& file,
                                                      const QuantizeVerbOptions& flags) {
  const Tokenizer tokenizer(file.tokenizer());
  const std::vector<int32_t> tokens =
      tokenizer.encode(read_file(*flags.text), SpecialTokens::kIgnore, false);
  if (flags.ctx > file.config().max_context) {
    fail(ErrorCode::kInvalidArgument, "--ctx {}: this model was made for at most {} tokens",
         flags.ctx, file.config().max_context);
  }
  const int64_t count = std::ssize(tokens) / flags.ctx;
  if (count == 0) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens make no window of {}: --ctx makes them shorter", *flags.text, tokens.size(),
         flags.ctx);
  }
  std::vector<int64_t> chosen(static_cast<size_t>(count));
  std::iota(chosen.begin(), chosen.end(), int64_t{0});
  SplitMix64 rng(flags.seed);
  const int64_t wanted = std::min(count, flags.samples);
  for (int64_t i = 0; i < wanted; ++i) {
    const auto rest = static_cast<uint64_t>(count - i);
    std::swap(chosen[static_cast<size_t>(i)],
              chosen[static_cast<size_t>(i) + static_cast<size_t>(rng.next() % rest)]);
  }
  chosen.resize(static_cast<size_t>(wanted));
  std::sort(chosen.begin(), chosen.end());
  std::vector<std::vector<int32_t>> windows;
  for (const int64_t window : chosen) {
    const auto first = tokens.begin() + window * flags.ctx;
    windows.emplace_back(first, first + flags.ctx);
    // What the model expects at the beginning of a text, as eval does.
    if (tokenizer.spec().add_bos && tokenizer.spec().bos >= 0)
      windows.back().front() = tokenizer.spec().bos;
  }
  return windows;
}

// Matrices of one kind, of all layers.
struct Kind {
  std::string name;
  int64_t matrices = 0, weights = 0;
  uint64_t bytes_before = 0, bytes_after = 0;
  std::vector<double> weight_errors = {}, output_errors = {};
};

// Root mean square of relative errors.
double mean_error(const std::vector<double>& errors) {
  double sum = 0.0;
  for (const double error : errors) sum += error * error;
  return errors.empty() ? 0.0 : std::sqrt(sum / static_cast<double>(errors.size()));
}

std::vector<Kind> kinds_of(const ModelFile& file, const Quantization& done) {
  std::vector<Kind> kinds;
  for (const std::string& name : linear_names(done.model.config)) {
    const auto at = done.blocks.find(name);
    if (at == done.blocks.end()) continue;
    const std::string_view kind = linear_kind(name);
    auto row =
        std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.name == kind; });
    if (row == kinds.end()) row = kinds.insert(kinds.end(), Kind{.name = std::string(kind)});
    ++row->matrices;
    row->weights += at->second.rows * at->second.cols;
    const TensorView& before = file.tensor(name);
    row->bytes_before += static_cast<uint64_t>(before.rows() * before.row_bytes());
    row->bytes_after += at->second.bytes.size();
    const auto add = [&](const auto& errors, std::vector<double>& to) {
      if (const auto error = errors.find(name); error != errors.end()) to.push_back(error->second);
    };
    add(done.weight_errors, row->weight_errors);
    add(done.output_errors, row->output_errors);
  }
  return kinds;
}

double bits_of(const Kind& kind) {
  return 8.0 * static_cast<double>(kind.bytes_after) / static_cast<double>(kind.weights);
}

std::string table_of(const std::vector<Kind>& kinds, const Terminal& terminal) {
  using Align = Table::Align;
  Table table({{"matrices", Align::kLeft},
               {"count", Align::kRight},
               {"weights", Align::kRight},
               {"before", Align::kRight},
               {"after", Align::kRight},
               {"bits", Align::kRight},
               {"weight error", Align::kRight},
               {"output error", Align::kRight}});
  const auto percent = [](const std::vector<double>& errors) {
    return errors.empty() ? std::string() : fmt::format("{:.2f}%", mean_error(errors) * 100);
  };
  Kind all{.name = "all"};
  for (const Kind& kind : kinds) {
    all.matrices += kind.matrices;
    all.weights += kind.weights;
    all.bytes_before += kind.bytes_before;
    all.bytes_after += kind.bytes_after;
  }
  const auto add = [&](const Kind& kind) {
    table.add_row({kind.name, with_separators(kind.matrices), with_separators(kind.weights),
                   human_bytes(kind.bytes_before), human_bytes(kind.bytes_after),
                   fmt::format("{:.2f}", bits_of(kind)), percent(kind.weight_errors),
                   percent(kind.output_errors)});
  };
  for (const Kind& kind : kinds) add(kind);
  if (all.matrices > 0) add(all);
  return table.text(terminal);
}

Json json_of(const QuantizeOptions& how, const ModelFile& file, const ModelFile& written,
             const Quantization& done, const std::vector<Kind>& kinds) {
  Json json = {{"method", how.method},
               {"bits", how.grid.bits},
               {"group", how.grid.group},
               {"activation_bits", done.model.config.activation_bits},
               {"samples", how.samples.size()},
               {"seed", how.seed},
               {"source_fingerprint", file.source_fingerprint()},
               {"bytes_before", file.weight_bytes()},
               {"bytes_after", written.weight_bytes()}};
  json["matrices"] = Json::array();
  for (const Kind& kind : kinds) {
    Json row = {{"kind", kind.name},
                {"count", kind.matrices},
                {"weights", kind.weights},
                {"bytes_before", kind.bytes_before},
                {"bytes_after", kind.bytes_after},
                {"stored_bits", bits_of(kind)},
                {"weight_error", mean_error(kind.weight_errors)}};
    if (!kind.output_errors.empty()) row["output_error"] = mean_error(kind.output_errors);
    json["matrices"].push_back(std::move(row));
  }
  json["output_errors"] = done.output_errors;
  json["notes"] = done.notes;
  return json;
}

}  // namespace

int quantize_verb(const QuantizeVerbOptions& flags) {
  const Terminal terminal = detect_terminal(stdout, flags.no_color);
  QuantizeOptions options = method_options(flags);
  const WeightMethod& method = find_weight_method(options.method);
  const FolderOptions folder{.replace = flags.force,
                             .command = "quantize " + flags.command,
                             .text = flags.text.value_or(""),
                             .context = flags.ctx};
  check_folder_is_free(flags.output, folder);
  const bool wants_text = method.needs_text || options.rounding == "gptq";
  if (wants_text && !flags.text) {
    fail(ErrorCode::kInvalidArgument, "{} needs a text to calibrate on: --text FILE",
         method.needs_text ? method.name : "gptq");
  }

  ProgressBar bar;
  const ProgressFn progress = bar.callback();
  const ModelFile file = ModelFile::open(flags.model);
  if (file.quantization()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: is quantized already ({}): quantize the model it was made from, {}", flags.model,
         file.quantization()->method, file.quantization()->source);
  }
  if (wants_text) options.samples = calibration_windows(file, flags);
  ThreadPool pool(flags.threads);
  FloatModel model(file, pool, progress);
  Quantization done{.options = options, .model = model, .pool = pool, .progress = progress};
  quantize_weights(done);
  write_quantized_folder(flags.output, file, done, folder, progress);
  const ModelFile written = ModelFile::open(flags.output);  // what was written can be read
  bar.clear();

  const std::vector<Kind> kinds = kinds_of(file, done);
  const std::string name = std::filesystem::path(flags.model).filename().string();
  fmt::print("{}: {} by {}", name, options.grid.text(), method.description);
  if (!options.samples.empty()) {
    fmt::print(", on {} windows of {} tokens of {}", options.samples.size(), flags.ctx,
               std::filesystem::path(*flags.text).filename().string());
    if (std::ssize(options.samples) < flags.samples) fmt::print(" (all it has)");
  }
  fmt::print("\n\n{}\n", table_of(kinds, terminal));
  for (const std::string& note : done.notes) fmt::print("Note: {}\n", note);
  if (model.config.activation_bits != kFloatBits) {
    fmt::print("Note: inputs of matrices are rounded to {} bits in a simulation, in floats\n",
               model.config.activation_bits);
  }
  fmt::print("{}: {} of weights, {} before\n", flags.output, human_bytes(written.weight_bytes()),
             human_bytes(file.weight_bytes()));
  if (flags.json_file)
    write_file_atomically(*flags.json_file,
                          json_of(options, file, written, done, kinds).dump(2) + "\n");
  return 0;
}

}  // namespace lowkey
