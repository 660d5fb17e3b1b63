// The options of `lowkey tune`.
#include "cli_options.h"

namespace lowkey {
namespace {

constexpr const char* kTuneExamples = R"(What it does:
  probes every layer, prunes and groups candidates, perturbs one layer at a time, searches with
  real evaluations, measures the front again on held-out text. DIR then holds front.json, a recipe
  per point, report.html, and journal.jsonl: after an interruption the same command goes on.

Examples:
  lowkey tune model.gguf -o tuned                      the model's own conversations
  lowkey tune model.gguf -o tuned --budget 3.25        and which recipe to use at 3.25 bits
  lowkey tune model.gguf -o tuned --text notes.txt     plain text (half of it held out)
  lowkey tune model.gguf -o tuned --chat chats.jsonl   {"messages": [...]} or {"turns": [...]}
  lowkey tune model.gguf -o tuned --gsm8k train.jsonl --few-shot 4 --as-chat
  lowkey tune model.gguf -o tuned --mode per-token --bits 8,4,3,2 --residual 0,32 --cost stored
  lowkey tune model.gguf -o tuned --by group --algorithm moead    KVTuner's own search
  torchrun --nproc-per-node 2 --no-python lowkey tune model.gguf -o tuned
  lowkey run model.gguf --kv tuned/front.json@3.25
)";

}  // namespace

void add_tune(CLI::App& tune, TuneVerbOptions& options) {
  tune.footer(kTuneExamples);
  add_model(tune, options.model);
  tune.add_option("-o,--out", options.out, "folder for the front, the report and the journal")
      ->required()
      ->type_name("DIR");
  add_number(tune, "--budget", options.budget,
             "bits per number: say which recipe of the front to use");

  tune.option_defaults()->group("What is measured on");
  add_files(tune, "--text", options.texts, "plain text; may be given again");
  add_files(tune, "--chat", options.chats, "JSONL of conversations; may be given again");
  tune.add_option("--gsm8k", options.examples, "JSONL of questions with worked answers")
      ->type_name("FILE");
  add_count(tune, "--few-shot", options.few_shot,
            "answered examples before each question of --gsm8k, --task; default 4", 0);
  tune.add_flag("--as-chat", options.as_chat, "those examples as turns of a chat");
  add_count(tune, "--tokens", options.tokens,
            "scored to calibrate on, and as many held out; default 2048", 64);
  add_count(tune, "-c,--ctx", options.ctx,
            "most tokens of a document, and where bits are counted; default 1024", 64);

  tune.option_defaults()->group("The space");
  add_choice(tune, "--mode", options.mode, {"kivi", "per-token", "both"},
             "keys per channel, R = 32 (kivi), or all per token; default kivi");
  add_counts(tune, "--bits", options.bits, "of keys and of values, every pair; default 8,4,2");
  add_counts(tune, "--group", options.groups, "group sizes; default the mode's own");
  add_counts(tune, "--value-group", options.value_groups,
             "of values, where others than keys'; 0: one per token and head");
  add_counts(tune, "--residual", options.residuals, "window lengths R; default the mode's own");
  tune.add_option("--candidates", options.candidates,
                  "instead: layers' short forms, such as kivi-4:r32,kivi-2:g64:r128")
      ->type_name("LIST");
  add_count(tune, "--intact", options.intact_prefix,
            "first tokens of a sequence kept exact; default 1", 0);
  tune.add_flag_function(
      "--no-prune", [&options](int64_t) { options.prune = false; },
      "search all candidates, not each layer's front of e_o");
  tune.add_option("--eps", options.eps, "DBSCAN's radius, in units of e_o; default 0.05")
      ->check(within(0.0, 1e9))
      ->type_name("X");
  add_count(tune, "--min-samples", options.min_samples, "DBSCAN's least neighbours; default 2");

  tune.option_defaults()->group("The search");
  add_choice(tune, "--by", options.by, {"layer", "group"},
             "search layers, or KVTuner's groups of alike ones; default layer");
  add_choice(tune, "--algorithm", options.algorithm, {"nsga2", "moead"}, "default nsga2");
  add_choice(tune, "--cost", options.cost, {"code", "stored"},
             "bits that count: codes alone, or all that is stored; default code");
  add_choice(tune, "--loss", options.loss, {"kl", "ppl", "task"},
             "to be small: KL to 16 bits, perplexity, wrong answers; default kl");
  tune.add_option("--task", options.task, "JSONL of questions and answers, for --loss task")
      ->type_name("FILE");
  add_count(tune, "--max-tokens", options.max_tokens, "of an answer to --task; default 128");
  add_number(tune, "--min-bits", options.min_bits, "search no cheaper than this");
  add_number(tune, "--max-bits", options.max_bits, "nor dearer than this");
  add_number(tune, "--max-loss", options.max_loss, "leave out points that lose more");
  add_count(tune, "--trials", options.trials, "real evaluations by the search; default 96");
  add_count(tune, "--points", options.points, "of the front, at most; default 24", 2);
  tune.add_option("-s,--seed", options.seed, "the same seed gives the same front; default 1")
      ->type_name("N");

  tune.option_defaults()->group("Options");
  add_weights(tune, options.weights, "auto");
  add_threads(tune, options.threads);
  tune.add_flag("--json", options.json, "print front.json instead of tables");
  tune.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

}  // namespace lowkey
