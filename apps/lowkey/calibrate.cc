// lowkey calibrate: prefixes that quantized models keep exact (IntactKV), as the 16-bit model makes
// them, or trained for one of its quantized versions.
#include "calibrate/calibrate.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>

#include "calibrate/prefix_ids.h"
#include "calibrate_output.h"
#include "calibration_documents.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "engine/make_prefix.h"
#include "engine/prefix_file.h"
#include "eval/scorer.h"
#include "interrupt.h"
#include "load/utf8.h"
#include "model/simulation.h"
#include "model_options.h"
#include "progress_bar.h"
#include "report/report.h"
#include "verbs.h"

namespace lowkey {
namespace {

using calibrate::LossKind;
using tune::Conversation;

constexpr int kSettingsVersion = 2;    // raised when the same settings train anew
constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells expect
// The most a teacher's outputs may take of the memory there is, unless --target-memory says so.
constexpr int64_t kTargetShare = 4;

LossKind loss_of(const CalibrateVerbOptions& options) {
  return options.loss == "kl"        ? LossKind::kLogits
         : options.loss == "answers" ? LossKind::kAnswers
                                     : LossKind::kLayers;
}

// One short run: as exact as floats are.
WeightStorage extraction_weights(const CalibrateVerbOptions& options) {
  return options.weights == WeightsOption::kBf16 ? WeightStorage::kBF16 : WeightStorage::kF32;
}

// bf16 products take half the time where the processor has them, and several times as long where it
// has not.
WeightStorage training_weights(const CalibrateVerbOptions& options) {
  if (options.weights == WeightsOption::kF32) return WeightStorage::kF32;
  if (options.weights == WeightsOption::kBf16) return WeightStorage::kBF16;
  return cpu_features().avx512_bf16 ? WeightStorage::kBF16 : WeightStorage::kF32;
}

std::string file_name(const std::string& path) {
  std::filesystem::path clean = std::filesystem::path(path).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  return clean.filename().string();
}

std::filesystem::path beside(const std::string& out, const char* ending) {
  return out + ending;
}

// Opened before anything is computed: a folder that was not made from the model is refused at once.
std::unique_ptr<ModelFile> open_student(const CalibrateVerbOptions& options,
                                        const ModelFile& model) {
  auto student = std::make_unique<ModelFile>(ModelFile::open(*options.student));
  if (student->source_fingerprint() != model.source_fingerprint()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: was not made from {}: make a student with 'lowkey quantize {} -o DIR'",
         *options.student, options.model, options.model);
  }
  if (loss_of(options) == LossKind::kLayers && is_rotated(student->config())) {
    fail(ErrorCode::kUnsupported,
         "{}: its layers' outputs are rotated and cannot be compared with the model's: use --loss "
         "kl",
         *options.student);
  }
  return student;
}

// ------------------------------------------------------------------------------ what to learn from

// What the texts are made from: part of the settings that a run is resumed under.
nlohmann::json sources_of(const CalibrateVerbOptions& options) {
  nlohmann::json sources = nlohmann::json::array();
  for (const std::string& path : options.texts) {
    sources.push_back({{"text", sha256_hex(read_file(path))}});
  }
  for (const std::string& path : options.chats) {
    sources.push_back({{"chats", sha256_hex(read_file(path))}});
  }
  if (sources.empty()) sources.push_back({{"scripts", kSettingsVersion}});
  return sources;
}

std::string source_name(const CalibrateVerbOptions& options) {
  std::string names;
  for (const auto* paths : {&options.texts, &options.chats}) {
    for (const std::string& path : *paths) {
      names += (names.empty() ? "" : ", ") + file_name(path);
    }
  }
  return names.empty() ? "its own conversations" : names;
}

// Conversations as files hold them; those that lack answers are held by the model, which takes
// minutes: a journal beside the output brings them back.
std::vector<Conversation> conversations_of(const CalibrateVerbOptions& options,
                                           const std::string& model_sha256,
                                           const ProgressFn& progress) {
  std::vector<Conversation> conversations;
  std::vector<tune::Script> scripts;
  for (const std::string& path : options.chats) {
    tune::ChatFile file = tune::read_chats(path);
    std::move(file.conversations.begin(), file.conversations.end(),
              std::back_inserter(conversations));
    std::move(file.scripts.begin(), file.scripts.end(), std::back_inserter(scripts));
  }
  const auto wanted = static_cast<size_t>(options.samples + options.heldout);
  if (options.chats.empty() && options.texts.empty()) scripts = usual_scripts(options.seed);
  if (conversations.size() >= wanted) scripts.clear();
  if (scripts.size() > wanted) scripts.resize(wanted);
  if (scripts.empty()) return conversations;
  tune::Journal journal(beside(options.out, ".journal"), {{"format", kSettingsVersion},
                                                          {"model_sha256", model_sha256},
                                                          {"seed", options.seed},
                                                          {"tokens", options.tokens},
                                                          {"conversations", scripts.size()},
                                                          {"sources", sources_of(options)}});
  std::vector<Conversation> held = remembered_conversations(journal, [&] {
    return hold_conversations(options.model, options.threads, scripts,
                              std::numeric_limits<int64_t>::max(), options.tokens, options.seed,
                              progress);
  });
  std::move(held.begin(), held.end(), std::back_inserter(conversations));
  return conversations;
}

std::vector<Document> documents_of(const CalibrateVerbOptions& options, const Engine& engine,
                                   const std::vector<Conversation>& conversations,
                                   int64_t prefix_tokens) {
  std::vector<Document> documents;
  for (const Conversation& conversation : conversations) {
    documents.push_back(tune::chat_document(engine, conversation, options.tokens + prefix_tokens));
  }
  const auto texts = std::max<int64_t>(1, std::ssize(options.texts));
  const int64_t windows = (options.samples + options.heldout + texts - 1) / texts;
  const int64_t ctx = std::min(options.tokens, engine.max_context() - prefix_tokens);
  for (const std::string& path : options.texts) {
    const std::vector<int32_t> tokens =
        engine.tokenizer().encode(read_file(path), SpecialTokens::kIgnore, false);
    for (Document& window : window_documents(tokens, ctx, windows, file_name(path))) {
      documents.push_back(std::move(window));
    }
  }
  return documents;
}

// ------------------------------------------------------------------------------------ the training

nlohmann::json settings_of(const CalibrateVerbOptions& options, const PrefixFile& file,
                           const std::string& student_sha256, const calibrate::Samples& samples,
                           WeightStorage weights) {
  Sha256 data;
  for (const auto* set : {&samples.train, &samples.heldout}) {
    for (const calibrate::Sample& sample : *set) {
      data.update(fmt::format("{} tokens, {} rows\n", sample.tokens.size(), sample.rows.size()));
      data.update(std::as_bytes(std::span(sample.tokens)));
      data.update(std::as_bytes(std::span(sample.rows)));
    }
  }
  return {{"format", kSettingsVersion},
          {"model_sha256", file.model_sha256},
          {"student_sha256", student_sha256},
          {"prefix", file.prefix->tokens},
          {"bits", options.bits},
          {"samples_sha256", to_hex(data.finish())},
          {"train", samples.train.size()},
          {"heldout", samples.heldout.size()},
          {"loss", options.loss},
          {"accumulation", options.accumulation},
          {"learning_rate", options.learning_rate},
          {"weight_decay", options.weight_decay},
          {"clip", options.clip},
          {"evaluate_every", options.evaluate_every},
          {"seed", options.seed},
          {"weights", weight_storage_name(weights)}};
}

calibrate::CalibratedPrefix train(const CalibrateVerbOptions& options, const ModelFile& model,
                                  const ModelFile& student, const PrefixFile& file,
                                  const calibrate::Samples& samples, const ProgressFn& progress) {
  const WeightStorage storage = training_weights(options);
  ThreadPool pool(options.threads);
  const ModelWeights teacher = load_weights(model, storage, pool, progress);
  const bool same = student.fingerprint() == model.fingerprint();
  const ModelWeights rounded =
      same ? ModelWeights() : load_weights(student, storage, pool, progress);
  calibrate::PrefixTraining training{
      .teacher = teacher,
      .student = same ? teacher : rounded,
      .prefix = *file.prefix,
      .bits = options.bits,
      .samples = samples,
      .loss = loss_of(options),
      .options = {},
      .target_bytes = options.target_memory.value_or(available_memory() / kTargetShare),
      .checkpoint = beside(options.out, ".checkpoint"),
      .settings = settings_of(options, file, student.fingerprint(), samples, storage)};
  training.options.steps = options.steps;
  training.options.accumulation = options.accumulation;
  training.options.adamw.learning_rate = options.learning_rate;
  training.options.adamw.weight_decay = options.weight_decay;
  training.options.clip = options.clip;
  training.options.evaluate_every = options.evaluate_every;
  training.options.patience = options.patience;
  training.options.seed = options.seed;
  return calibrate::calibrate_prefix(training, pool, progress);
}

std::map<std::string, std::string> notes_of(const CalibrateOutcome& outcome,
                                            const std::string& student_sha256) {
  const CalibrateVerbOptions& options = outcome.options;
  std::map<std::string, std::string> notes;
  if (options.bits < 16) notes["bits"] = fmt::format("{}", options.bits);
  if (outcome.student.empty()) return notes;
  const calibrate::CalibratedPrefix& trained = outcome.trained;
  notes["trained_for"] = outcome.student;
  notes["student_sha256"] = student_sha256;
  notes["trained_on"] = fmt::format("{} samples of {}, {} held out", outcome.samples.train.size(),
                                    outcome.source, outcome.samples.heldout.size());
  notes["loss"] = options.loss;
  notes["heldout_loss_before"] = fmt::format("{:.9g}", trained.first_heldout);
  notes["heldout_loss"] = fmt::format("{:.9g}", trained.best_heldout);
  notes["step"] = fmt::format("{}", trained.best_step);
  return notes;
}

// The prefix as the 16-bit model makes it.
struct Extracted {
  PrefixFile file;
  std::string text;
};

Extracted extract(const CalibrateVerbOptions& options, const ProgressFn& progress) {
  Engine engine(options.model, {extraction_weights(options), options.threads, 0}, progress);
  const std::string prefix =
      options.prefix.empty() ? calibrate::usual_prefix(engine) : options.prefix;
  const std::vector<int32_t> ids = calibrate::prefix_ids(engine, prefix, options.length);
  Extracted extracted;
  extracted.file = make_prefix(engine.model(), engine.file(), ids, progress);
  extracted.file.name = options.name.value_or(prefix.substr(0, prefix.find(':')));
  extracted.file.command = "lowkey calibrate " + options.command;
  extracted.text = utf8_replace_invalid(engine.tokenizer().decode(ids, true));
  return extracted;
}

calibrate::Samples samples_of(const CalibrateVerbOptions& options,
                              const std::vector<Conversation>& conversations,
                              const std::vector<int32_t>& prefix, const ProgressFn& progress) {
  // For its tokenizer and template: weights that stay in the file cost nothing.
  const Engine engine(options.model, {WeightStorage::kFile, options.threads, 0}, progress);
  const auto length = std::ssize(prefix);
  return calibrate::make_samples(
      documents_of(options, engine, conversations, length), prefix, loss_of(options),
      std::min(options.tokens, engine.max_context() - length), options.samples, options.heldout);
}

int calibrate_to_file(const CalibrateVerbOptions& options, ProgressBar& bar,
                      const ProgressFn& progress) {
  CalibrateOutcome outcome;
  outcome.options = options;
  outcome.model = file_name(options.model);
  const ModelFile model = ModelFile::open(options.model);
  std::unique_ptr<ModelFile> student;
  if (options.student) student = open_student(options, model);
  // What can be refused is, before minutes of conversation.
  Extracted extracted = extract(options, progress);
  PrefixFile& file = extracted.file;
  outcome.prefix_text = extracted.text;
  outcome.prefix_name = file.name;
  outcome.tokens = file.prefix->length();
  if (student) {
    outcome.student = file_name(*options.student);
    outcome.source = source_name(options);
    outcome.products = weight_storage_name(training_weights(options));
    outcome.samples = samples_of(options, conversations_of(options, model.fingerprint(), progress),
                                 file.prefix->tokens, progress);
    outcome.trained = train(options, model, *student, file, outcome.samples, progress);
    if (outcome.trained.resumed_at > 0) {
      bar.clear();
      fmt::print(stderr, "went on from {} at step {}\n",
                 beside(options.out, ".checkpoint").string(), outcome.trained.resumed_at);
    }
    file.prefix = std::make_shared<const IntactPrefix>(outcome.trained.prefix);
  } else if (options.bits < 16) {
    IntactPrefix rounded = *file.prefix;
    calibrate::round_prefix(rounded, options.bits);
    file.prefix = std::make_shared<const IntactPrefix>(std::move(rounded));
  }
  file.notes = notes_of(outcome, student ? student->fingerprint() : "");
  write_prefix(options.out, file);
  std::error_code ignored;
  outcome.file_bytes = std::filesystem::file_size(options.out, ignored);
  const std::string json = calibrate_json(outcome).dump(1) + "\n";
  if (options.json_file) write_file_atomically(*options.json_file, json);
  if (options.report_file) {
    write_file_atomically(*options.report_file, calibration_report_html(json));
  }
  // What it would have been resumed from.
  for (const char* ending : {".checkpoint", ".journal"}) {
    std::filesystem::remove(beside(options.out, ending), ignored);
  }
  bar.clear();
  fmt::print("{}", calibrate_text(outcome));
  return 0;
}

}  // namespace

int calibrate_verb(const CalibrateVerbOptions& options) {
  ProgressBar bar;
  const InterruptGuard interrupt;
  const ProgressFn draw = bar.callback();
  const ProgressFn progress = [&](std::string_view what, int64_t done, int64_t total) {
    if (interrupt.flag()) fail(ErrorCode::kCancelled, "stopped");
    draw(what, done, total);
  };
  try {
    return calibrate_to_file(options, bar, progress);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) throw;
    bar.clear();
    fmt::print(stderr, "stopped; the same command goes on from where it was\n");
    return kExitInterrupted;
  }
}

}  // namespace lowkey
