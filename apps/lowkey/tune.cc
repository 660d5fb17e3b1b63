// lowkey tune: the best precision for every layer. One process, or several that torchrun's
// environment names: the first decides and writes, the others measure.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "calibration_documents.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "eval/task_file.h"
#include "model_options.h"
#include "probe/probe.h"
#include "probe/probe_json.h"
#include "progress_bar.h"
#include "terminal.h"
#include "tune/calibration.h"
#include "tune/crew.h"
#include "tune/measurer.h"
#include "tune/tcp_store.h"
#include "tune_output.h"
#include "units.h"
#include "verbs.h"

namespace lowkey {
namespace {

using tune::CalibrationSets;
using tune::Conversation;

constexpr int kTuneVersion = 1;  // of what records mean: raised when the same settings measure anew
constexpr std::chrono::seconds kConnectTimeout(300);

// ---------------------------------------------------------------------------------- the options

std::vector<int32_t> narrow(const std::vector<int64_t>& values) {
  return {values.begin(), values.end()};
}

std::vector<LayerCandidate> candidates_of(const TuneVerbOptions& flags) {
  if (flags.candidates) return parse_candidates(*flags.candidates);
  CandidateSpace space;
  space.modes.clear();
  if (flags.mode != "per-token") space.modes.push_back(CandidateMode::kKivi);
  if (flags.mode != "kivi") space.modes.push_back(CandidateMode::kPerToken);
  space.bits = narrow(flags.bits);
  space.group_sizes = narrow(flags.groups);
  space.value_group_sizes = narrow(flags.value_groups);
  space.residual_lengths = narrow(flags.residuals);
  return make_candidates(space);
}

// The papers' uniform recipes in the search's own mode, and the other mode's for comparison.
std::vector<std::string> references_of(const TuneVerbOptions& flags) {
  const std::string suffix =
      flags.intact_prefix > 0 ? fmt::format("+i{}", flags.intact_prefix) : "";
  const bool kivi = flags.mode != "per-token";
  std::vector<std::string> references;
  const auto add = [&](bool as_kivi, std::initializer_list<const char*> pairs) {
    for (const char* pair : pairs) {
      references.push_back(recipe_to_string(parse_recipe(
          fmt::format("{}{}{}{}", as_kivi ? "kivi-" : "", pair, as_kivi ? ":r32" : "", suffix))));
    }
  };
  add(kivi, {"8", "8/4", "4", "4/2", "2"});
  add(!kivi, {"8", "4"});
  if (!kivi) add(true, {"2"});
  return references;
}

tune::TuneOptions tune_options(const TuneVerbOptions& flags) {
  tune::TuneOptions options;
  options.candidates = candidates_of(flags);
  options.intact_prefix = static_cast<int32_t>(flags.intact_prefix);
  options.prune = flags.prune;
  options.cluster = {flags.eps, static_cast<int32_t>(flags.min_samples)};
  options.granularity = flags.by == "group" ? tune::Granularity::kGroup : tune::Granularity::kLayer;
  options.cost = flags.cost == "stored" ? tune::CostKind::kStoredBits : tune::CostKind::kCodeBits;
  options.loss = flags.loss == "ppl"    ? tune::LossKind::kPerplexity
                 : flags.loss == "task" ? tune::LossKind::kTask
                                        : tune::LossKind::kKl;
  options.ctx = flags.ctx;
  options.algorithm =
      flags.algorithm == "moead" ? tune::Algorithm::kMoead : tune::Algorithm::kNsga2;
  options.seed = flags.seed;
  options.trials = static_cast<int32_t>(flags.trials);
  options.max_points = static_cast<int32_t>(flags.points);
  options.references = references_of(flags);
  options.min_cost = flags.min_bits;
  options.max_cost = flags.max_bits;
  options.max_loss = flags.max_loss;
  return options;
}

// Groups of 32 do not divide every head: then there is nothing to compare with.
bool fits(const std::string& recipe, const KvShape& shape) {
  try {
    resolve_recipe(parse_recipe(recipe), shape);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    return false;
  }
}

// ------------------------------------------------------------------------------- the documents

// What the documents are made from: part of the journal's settings.
nlohmann::json sources_of(const TuneVerbOptions& flags) {
  nlohmann::json sources = nlohmann::json::array();
  for (const std::string& text : flags.texts) {
    sources.push_back({{"text", sha256_hex(read_file(text))}, {"ctx", flags.ctx}});
  }
  for (const std::string& chat : flags.chats) {
    sources.push_back({{"chat", sha256_hex(read_file(chat))}});
  }
  if (flags.examples) {
    sources.push_back({{"examples", sha256_hex(read_file(*flags.examples))},
                       {"few_shot", flags.few_shot},
                       {"as_chat", flags.as_chat}});
  }
  if (sources.empty()) sources.push_back({{"scripts", kTuneVersion}});
  return sources;
}

// Answered examples in front of a question and its own answer: chain-of-thought as the papers
// calibrate with, one document per question.
std::vector<Conversation> example_conversations(const TuneVerbOptions& flags) {
  const Task task = read_task(*flags.examples, fmt::format("{}", flags.few_shot));
  std::vector<Conversation> conversations;
  for (const TaskExample& asked : task.asked) {
    Conversation conversation{fmt::format("{} {}", task.name, asked.line), {}};
    if (flags.as_chat) {
      conversation.messages = task_turns(task.shots, asked);
      conversation.messages.push_back({"assistant", asked.worked});
    } else {
      conversation.messages = {
          {tune::kPlainText, task_text(task.shots, asked) + " " + asked.worked}};
    }
    conversations.push_back(std::move(conversation));
  }
  return conversations;
}

// Conversations first: some are yet to be held, which takes time; a journal brings them back.
std::vector<Conversation> conversations_of(const TuneVerbOptions& flags,
                                           const ProgressFn& progress) {
  std::vector<Conversation> conversations;
  std::vector<tune::Script> scripts;
  const auto take = [](auto& to, auto from) {
    std::move(from.begin(), from.end(), std::back_inserter(to));
  };
  for (const std::string& path : flags.chats) {
    tune::ChatFile file = tune::read_chats(path);
    take(conversations, std::move(file.conversations));
    take(scripts, std::move(file.scripts));
  }
  if (flags.examples) take(conversations, example_conversations(flags));
  if (conversations.empty() && scripts.empty() && flags.texts.empty()) {
    scripts = usual_scripts(flags.seed);
  }
  if (!scripts.empty()) {
    take(conversations, hold_conversations(flags.model, flags.threads, scripts, flags.tokens,
                                           flags.ctx, flags.seed, progress));
  }
  return conversations;
}

CalibrationSets documents_of(const TuneVerbOptions& flags, const Engine& engine,
                             const std::vector<Conversation>& conversations) {
  CalibrationSets sets;
  const auto take = [&](CalibrationSets part) {
    std::move(part.calibration.begin(), part.calibration.end(),
              std::back_inserter(sets.calibration));
    std::move(part.heldout.begin(), part.heldout.end(), std::back_inserter(sets.heldout));
  };
  for (const std::string& path : flags.texts) {
    const int64_t windows = std::max<int64_t>(2, 2 * flags.tokens / flags.ctx);
    take(tune::text_sets(engine, read_file(path), flags.ctx, windows,
                         std::filesystem::path(path).filename().string()));
  }
  if (!conversations.empty()) {
    tune::SetFiller filler(flags.tokens);
    for (const Conversation& conversation : conversations) {
      if (filler.full()) break;
      filler.add(tune::chat_document(engine, conversation, flags.ctx));
    }
    take(filler.take());
  }
  return sets;
}

nlohmann::json to_json(const std::vector<Document>& documents) {
  nlohmann::json list = nlohmann::json::array();
  for (const Document& document : documents) {
    nlohmann::json scored = nlohmann::json::array();
    for (const TokenRange& range : document.scored) scored.push_back({range.first, range.last});
    list.push_back({{"name", document.name}, {"tokens", document.tokens}, {"scored", scored}});
  }
  return list;
}

std::vector<Document> documents_from(const nlohmann::json& list) {
  std::vector<Document> documents;
  for (const nlohmann::json& item : list) {
    Document document{item.at("name"), item.at("tokens"), {}};
    for (const nlohmann::json& range : item.at("scored")) {
      document.scored.push_back({range.at(0), range.at(1)});
    }
    documents.push_back(std::move(document));
  }
  return documents;
}

TuneSetSize size_of(const std::vector<Document>& documents) {
  TuneSetSize size{std::ssize(documents), 0};
  for (const Document& document : documents) size.scored_tokens += document.num_scored();
  return size;
}

// ----------------------------------------------------------------------------------- the search

// What must be the same wherever trials are measured.
nlohmann::json machine_settings(const TuneVerbOptions& flags, const Engine& engine,
                                const std::string& sha256) {
  nlohmann::json task;
  if (flags.task) {
    task = {{"file", sha256_hex(read_file(*flags.task))},
            {"few_shot", flags.few_shot},
            {"as_chat", flags.as_chat},
            {"max_tokens", flags.max_tokens}};
  }
  return {{"format", kTuneVersion},
          {"task", task},
          {"model_sha256", sha256},
          {"instruction_set", isa_name(active_isa())},
          {"weights", weight_storage_name(engine.weight_storage())},
          {"prompts_in_bf16", const_cast<Engine&>(engine).model().prefill_bytes() > 0}};
}

nlohmann::json all_settings(const TuneVerbOptions& flags, const tune::TuneOptions& options,
                            nlohmann::json settings) {
  nlohmann::json candidates = nlohmann::json::array();
  for (const LayerCandidate& candidate : options.candidates) {
    candidates.push_back(recipe_to_string(recipe_of_layers(std::span(&candidate.layer, 1), 0)));
  }
  settings["candidates"] = candidates;
  settings["intact_prefix"] = flags.intact_prefix;
  settings["prune"] = flags.prune;
  settings["eps"] = flags.eps;
  settings["min_samples"] = flags.min_samples;
  settings["by"] = flags.by;
  settings["algorithm"] = flags.algorithm;
  settings["cost"] = flags.cost;
  settings["loss"] = flags.loss;
  const auto bound = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  settings["min_bits"] = bound(flags.min_bits);
  settings["max_bits"] = bound(flags.max_bits);
  settings["max_loss"] = bound(flags.max_loss);
  settings["trials"] = flags.trials;
  settings["points"] = flags.points;
  settings["seed"] = flags.seed;
  settings["tokens"] = flags.tokens;
  settings["ctx"] = flags.ctx;
  settings["sources"] = sources_of(flags);
  return settings;
}

std::optional<tune::MeasuredTask> task_of(const TuneVerbOptions& flags, const Engine& engine) {
  if (!flags.task) return std::nullopt;
  TaskOptions options;
  options.max_tokens = flags.max_tokens;
  return tune::split_task(engine, read_task(*flags.task, fmt::format("{}", flags.few_shot)),
                          flags.as_chat ? PromptForm::kChat : PromptForm::kText, options);
}

struct Probed {
  std::vector<std::vector<double>> e_o;  // [layer][candidate]
  std::string json;
};

// From the journal, or measured and put there: it need not be repeated when a search is resumed.
Probed probe_or_remember(Engine& engine, const CalibrationSets& sets,
                         const tune::TuneOptions& options, tune::Journal& journal,
                         const ProgressFn& progress) {
  Probed probed;
  if (probe_refusal(engine.model().config())) {
    // No layer is like another or unlike it.
    probed.e_o.assign(static_cast<size_t>(engine.kv_shape().num_layers),
                      std::vector<double>(options.candidates.size(), 0.0));
    return probed;
  }
  for (const nlohmann::json& record : journal.records()) {
    if (!record.contains("probe")) continue;
    probed.e_o = record.at("e_o").get<std::vector<std::vector<double>>>();
    probed.json = record.at("probe").get<std::string>();
    return probed;
  }
  ProbeOptions probe_options;
  probe_options.intact_prefix = options.intact_prefix;
  const ProbeResult result = probe(engine.model(), sets.calibration, options.candidates,
                                   probe_options, engine.pool(), progress);
  for (const LayerProbe& layer : result.layers) {
    auto& errors = probed.e_o.emplace_back();
    for (const CandidateErrors& candidate : layer.candidates) errors.push_back(candidate.e_o);
  }
  probed.json =
      probe_json(result, engine.file().path().filename().string(), engine.tokenizer()).dump();
  journal.append({{"e_o", probed.e_o}, {"probe", probed.json}});
  return probed;
}

// LOWKEY_LOST_AFTER_MS: for tests, and for machines that stall longer than ours.
std::chrono::milliseconds lost_after(std::chrono::milliseconds usual) {
  const char* text = std::getenv("LOWKEY_LOST_AFTER_MS");
  const auto count = text ? parse_count(text) : std::nullopt;
  return count && *count > 0 ? std::chrono::milliseconds(*count) : usual;
}

int work(const TuneVerbOptions& flags, const tune::CrewAddress& address,
         const tune::CrewOptions& crew) {
  ProgressBar bar;
  const auto store = tune::connect_tcp_store(address, false, kConnectTimeout);
  const auto beats = tune::connect_tcp_store(address, false, kConnectTimeout);
  tune::CrewWorker worker(*store, *beats, crew);
  const std::string sha256 = tune::model_sha256(flags.model, bar.callback());
  Engine engine(flags.model, {weight_storage(flags.weights), flags.threads, 0}, bar.callback());
  fmt::print(stderr, "rank {} of {}: waiting for the leader at {}:{}\n", address.rank,
             address.world_size, address.host, address.port);
  const nlohmann::json task =
      nlohmann::json::parse(worker.join(machine_settings(flags, engine, sha256)));
  tune::Measurer measurer(
      engine, {documents_from(task.at("calibration")), documents_from(task.at("heldout"))},
      task_of(flags, engine));
  const int64_t done = worker.work([&](const tune::Job& job, const ProgressFn& progress) {
    return measurer.measure(job, progress);
  });
  bar.clear();
  fmt::print(stderr, "rank {} of {}: {} trials measured\n", address.rank, address.world_size, done);
  return 0;
}

}  // namespace

int tune_verb(const TuneVerbOptions& flags) {
  const Terminal terminal = detect_terminal(stdout, flags.no_color);
  tune::TuneOptions options = tune_options(flags);  // refused at once, not after loading
  const auto address = tune::crew_address_from_environment();
  tune::CrewOptions crew;
  if (address) {
    crew.rank = address->rank;
    crew.world_size = address->world_size;
    crew.lost_after = lost_after(crew.lost_after);
    if (address->rank > 0) return work(flags, *address, crew);
  }

  const std::filesystem::path folder = flags.out;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be made: {}", folder.string(), error.message());

  // The others look for it from the start.
  std::unique_ptr<tune::KeyStore> store;
  if (address) store = tune::connect_tcp_store(*address, true, kConnectTimeout);

  ProgressBar bar;
  const ProgressFn progress = bar.callback();
  const std::string sha256 = tune::model_sha256(flags.model, progress);
  Engine engine(flags.model, {weight_storage(flags.weights), flags.threads, 0}, progress);
  std::erase_if(options.references,
                [&](const std::string& recipe) { return !fits(recipe, engine.kv_shape()); });
  if (const char* what = probe_refusal(engine.model().config())) {
    if (flags.by == "group") {
      fail(
          ErrorCode::kUnsupported,
          "--by group: the probe, which finds groups, cannot measure a model with {} yet; use --by "
          "layer",
          what);
    }
    bar.clear();
    fmt::print(stderr,
               "a model with {} cannot be probed yet: every layer searches all candidates\n", what);
    options.prune = false;
  }
  const nlohmann::json machine = machine_settings(flags, engine, sha256);
  tune::Journal journal(folder / "journal.jsonl", all_settings(flags, options, machine));
  if (journal.was_torn()) {
    bar.clear();
    fmt::print(stderr, "the journal's last line was torn; its trial is measured again\n");
  }
  const CalibrationSets sets = documents_of(flags, engine, remembered_conversations(journal, [&] {
                                              return conversations_of(flags, progress);
                                            }));
  const Probed probed = probe_or_remember(engine, sets, options, journal, progress);

  tune::Measurer measurer(engine, sets, task_of(flags, engine));
  const tune::LocalRunner::Measure measure = [&](const tune::Job& job, const ProgressFn& part) {
    return measurer.measure(job, part);
  };
  std::unique_ptr<tune::JobRunner> runner;
  if (store) {
    const nlohmann::json task = {{"calibration", to_json(sets.calibration)},
                                 {"heldout", to_json(sets.heldout)}};
    runner = std::make_unique<tune::CrewLeader>(*store, crew, machine, task.dump(), measure);
  } else {
    runner = std::make_unique<tune::LocalRunner>(measure);
  }
  tune::Trials trials(*runner, &journal);
  if (trials.resumed() > 0) {
    bar.clear();
    fmt::print(stderr, "going on: {} trials are in {}\n", trials.resumed(),
               (folder / "journal.jsonl").string());
  }

  TuneOutcome outcome;
  outcome.options = options;
  outcome.shape = engine.kv_shape();
  outcome.result = tune::tune(options, outcome.shape, probed.e_o, trials, progress);
  outcome.result.front.model = front_model_name(flags.model);
  outcome.result.front.num_layers = outcome.shape.num_layers;
  outcome.result.front.model_sha256 = sha256;
  outcome.result.front.data_sha256 = tune::documents_sha256(sets);
  outcome.result.front.command = fmt::format("lowkey tune {}", flags.command);
  outcome.model_argument = flags.model;
  outcome.engine = describe_kernels(engine);
  outcome.calibration = size_of(sets.calibration);
  outcome.heldout = size_of(sets.heldout);
  outcome.probe_json = probed.json;
  outcome.budget = flags.budget;
  bar.clear();
  runner.reset();  // the others may go
  const std::string no_page = write_tune_files(outcome, folder);
  if (!no_page.empty()) fmt::print(stderr, "lowkey: warning: {}\n", no_page);
  if (flags.json) {
    fmt::print("{}", front_to_json(outcome.result.front));
  } else {
    fmt::print("{}", tune_text(outcome, folder.string(), terminal));
  }
  return 0;
}

}  // namespace lowkey
