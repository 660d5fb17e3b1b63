#include "cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>

#include "cli_options.h"
#include "core/error.h"

namespace lowkey {
namespace {

constexpr const char* kRecipes = R"(Recipes (docs/formats/recipe.md has all of it):
  16                         unquantized
  8   8/4   4                per token; keys/values
  kivi-4   kivi-4/2:r32      keys per channel, values per token, newest 32 tokens exact
  0-1=16,*=kivi-2+i1         by layers; the first token exact
  kivi-2+i@p24.safetensors   after a prefix whose exact K and V lowkey calibrate made
  recipe.json                a file
  front.json@3.25            of a front: the point with the most code bits up to 3.25
)";

constexpr const char* kRunExamples = R"(Examples:
  lowkey run model.gguf                             chat; Ctrl-C stops an answer, Ctrl-D ends
  lowkey run model.gguf -p "Why is the sky blue?"   one answer
  lowkey run model.gguf -p "Hi" --kv kivi-2+i1      from a 2-bit cache, first token exact
  lowkey run ./hf-folder -f story.txt --raw -n 200  continue a text, no chat template
  lowkey run model.gguf --quality balanced --front tuned     what lowkey tune found
Qualities, by what a recipe was measured to lose on held-out text (docs/formats/front.md):
  lossless: perplexity within 0.5%, KL <= 0.01; balanced: within 2%; compact: within 5%
)";

constexpr const char* kEvalExamples = R"(Examples:
  lowkey eval model.gguf --kv 8 --kv kivi-4 --kv kivi-2 --text wiki.txt
  lowkey eval model.gguf --kv front.json@3.25 --text wiki.txt --ctx 4k --chunks 8
  lowkey eval model.gguf --kv 4 --text wiki.txt --json results.json
  lowkey eval model.gguf --kv kivi-4 --kv kivi-2 --task gsm8k.jsonl --few-shot 4 --limit 100
  lowkey eval model.gguf --kv 4 --task ours.jsonl --few-shot shots.jsonl --as-chat
  lowkey eval w4g64 --kv 16+i@bos.safetensors --text wiki.txt --protocol paper
  lowkey eval model.gguf --kv kivi-2 --choices mmlu.jsonl --few-shot dev.jsonl
  lowkey eval model.gguf --kv kivi-2+i1 --mt-bench question.jsonl -o kivi-2.jsonl
)";

constexpr const char* kBenchExamples = R"(Examples:
  lowkey bench model.gguf                                   prompt of 512, answer of 128 tokens
  lowkey bench model.gguf --kv 16,8,4,kivi-4:r32 -d 0,4k    recipes side by side, at two depths
  lowkey bench model.gguf -p 0 -n 64 -d 4k --kv "0-1=16,*=kivi-2" --kv 16
  lowkey bench model.gguf -p 128,4k -n 0 -r 10 --json results.json
)";

constexpr const char* kProbeExamples = R"(Examples:
  lowkey probe model.gguf --text wiki.txt                  KIVI's axes, 8, 4 and 2 bits
  lowkey probe model.gguf --text wiki.txt --mode per-token --bits 8,4
  lowkey probe model.gguf --text wiki.txt --kv kivi-4/2:r32,kivi-2:r64
  lowkey probe model.gguf --text wiki.txt --ctx 4k --chunks 4 --report probe.html

  lowkey probe model.gguf --pivots                         which tokens must stay exact
  lowkey probe model.gguf --pivots --text wiki.txt --against w3g64 --report pivots.html

Errors are sums of |x - x'| over sums of |x|: e_k, e_v of keys and values that are
packed, e_o of what a layer's attention puts out, with everything before it exact.
)";

constexpr const char* kPlanExamples = R"(Examples:
  lowkey plan model.gguf                                   at 4,096 tokens, the usual recipes
  lowkey plan model.gguf --kv kivi-2:r32 -c 32k -b 8       8 sequences of 32,768 tokens
  lowkey plan model.gguf --memory 16GiB                    how long a context, how large a batch
  lowkey plan --arch Llama-3.1-8B --weights-bits 4.5       a well-known model, without its file
  lowkey plan --arch list
  lowkey plan model.gguf --front tuned --memory 6GiB -c 32k -b 8   the best tuned recipe that fits
)";

constexpr const char* kInspectExamples = R"(Examples:
  lowkey inspect model.gguf                         what it is, and what its KV cache costs
  lowkey inspect model.gguf --kv kivi-2 --ctx 32k   what that recipe costs at 32,768 tokens
  lowkey inspect recipe.json --model model.gguf     a recipe, layer by layer, on that model
  lowkey inspect "0-1=16,*=kivi-4/2:r32"            the same for a short form
  lowkey inspect front.json                         a front: its points, and what each is for
  lowkey inspect p24.safetensors --model model.gguf an intact prefix, its tokens as text
  lowkey inspect tensors.safetensors --json
)";

constexpr const char* kConvertExamples = R"(Examples:
  lowkey convert Llama-3.1-8B_kivi_KVTuner4_1.yaml -o c325.json    KVTuner's, mode by its name
  lowkey convert preset.yaml --as per-token -o recipe.json
  lowkey convert hf_quant_config.json --as kivi -o recipe.json     NVIDIA ModelOpt's
  lowkey convert front.json@3.25 -o recipe.json                    one point of a front
  lowkey convert front.json@3.25 --model model.gguf -o kvtuner.yaml
  lowkey convert kivi-4/2:r32                                      as JSON, on standard output
)";

constexpr const char* kVerbs =
    "run, eval, bench, probe, tune, calibrate, quantize, plan, inspect or convert";

std::string footer(const char* examples) {
  return fmt::format("{}\n{}", kRecipes, examples);
}

// "16,8,kivi-4": several recipes. A layer list has commas of its own: "0-1=16,*=8" is one recipe.
std::vector<std::string> split_recipes(const std::string& text) {
  if (text.find_first_of("={") != std::string::npos) return {text};
  std::vector<std::string> recipes;
  std::stringstream stream(text);
  for (std::string recipe; std::getline(stream, recipe, ',');) recipes.push_back(recipe);
  return recipes;
}

void add_run(CLI::App& run, RunOptions& options) {
  run.footer(footer(kRunExamples));
  add_model(run, options.model);
  auto* prompt = run.add_option("-p,--prompt", options.prompt, "answer this; without it: a chat")
                     ->type_name("TEXT");
  run.add_option("-f,--file", options.prompt_file, "the prompt from a file; - is standard input")
      ->type_name("FILE")
      ->excludes(prompt);
  auto* kv =
      run.add_option("--kv", options.kv, "how K and V are stored; default 16")->type_name("RECIPE");
  auto* front = run.add_option("--front", options.front,
                               "for --quality: a front.json of lowkey tune, or its folder")
                    ->type_name("FILE");
  auto* quality =
      add_parsed(run, "--quality", options.quality, parse_quality, "lossless, balanced or compact",
                 "instead of --kv: lossless, balanced or compact, from --front")
          ->type_name("NAME")
          ->excludes(kv);
  front->needs(quality);
  add_weights(run, options.weights, "auto");
  add_count(run, "-n,--max-tokens", options.max_tokens,
            "most tokens to generate; default: until the model ends");
  add_count(run, "-c,--ctx", options.ctx, "context length; default: the model's");
  auto* temperature = run.add_option("--temperature,--temp", options.sampling.temperature,
                                     "0 is greedy; default: the model's, as are the next three")
                          ->check(within(0.0, 100.0))
                          ->type_name("X");
  run.add_option("--top-k", options.sampling.top_k, "sample from the K likeliest; 0: all")
      ->check(within(0, 1 << 24))
      ->type_name("K");
  run.add_option("--top-p", options.sampling.top_p, "from the likeliest that sum to P")
      ->check(within(0.0, 1.0))
      ->type_name("P");
  run.add_option("--min-p", options.sampling.min_p, "from those at least P times the likeliest")
      ->check(within(0.0, 1.0))
      ->type_name("P");
  run.add_option("-s,--seed", options.sampling.seed, "the same seed gives the same text")
      ->type_name("N");
  run.add_flag_function(
         "--greedy", [&options](int64_t) { options.sampling.temperature = 0.0; },
         "the same as --temperature 0")
      ->excludes(temperature);
  run.add_option("--stop", options.stop, "end before this text; may be given again")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("TEXT");
  run.add_option("--system", options.system, "the system message")->type_name("TEXT");
  run.add_flag("--raw", options.raw, "the prompt as it is, without the model's chat template");
  add_threads(run, options.threads);
  run.add_flag("-v,--verbose", options.verbose, "which kernels and formats are used, on stderr");
  run.add_flag("--json", options.json, "one JSON object with the text and its figures");
  run.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

// What eval measures on: --text (also if nothing is said), --task, --choices, --mt-bench.
using EvalModes = std::array<CLI::Option*, 4>;

std::string names_of(const std::vector<CLI::Option*>& options) {
  std::string names;
  for (size_t i = 0; i < options.size(); ++i) {
    if (i > 0) names += i + 1 == options.size() ? " or " : ", ";
    names += options[i]->get_name();
  }
  return names;
}

// Not CLI11's excludes() and needs(), which crowd the help.
CLI::Option* chosen_mode(const EvalModes& modes) {
  CLI::Option* chosen = nullptr;
  for (CLI::Option* mode : modes) {
    if (mode->empty()) continue;
    if (chosen) throw CLI::ExcludesError(chosen->get_name(), mode->get_name());
    chosen = mode;
  }
  return chosen ? chosen : modes[0];
}

std::optional<bool> parse_protocol(const std::string& text) {
  return text == "paper" ? std::optional(true) : std::nullopt;
}

std::optional<bool> parse_sampling(const std::string& text) {
  if (text == "greedy") return false;
  if (text == "fastchat") return true;
  return std::nullopt;
}

// "--bos" alone, or "--bos=ID": a word after a blank would be the model's name.
CLI::Option* add_bos(CLI::App& app, std::optional<std::string>& target) {
  return app
      .add_flag("--bos{model}", target, "chunks begin with the model's BOS token, or with --bos=ID")
      ->check(CLI::Validator(
          [](std::string& text) {
            const bool id = !text.empty() && text.size() < 10 &&
                            text.find_first_not_of("0123456789") == std::string::npos;
            return id || text == "model" ? "" : fmt::format("'{}' is not a token's id", text);
          },
          ""));
}

void add_eval(CLI::App& eval, EvalOptions& options) {
  eval.footer(footer(kEvalExamples));
  add_model(eval, options.model);
  add_recipes(eval, options.kv, "measure this, besides 16, the reference; may be given again");
  auto* text = eval.add_option("--text", options.text,
                               "measure on this, UTF-8; default: what the model says to itself")
                   ->type_name("FILE");
  auto* task = eval.add_option("--task", options.task,
                               "instead: answer a JSONL file's questions and count right answers")
                   ->type_name("FILE");
  auto* choices = eval.add_option("--choices", options.choices,
                                  "instead: of questions' choices, which is the likeliest")
                      ->type_name("FILE");
  auto* mt_bench = eval.add_option("--mt-bench", options.mt_bench,
                                   "instead: answer MT-Bench's questions, for FastChat's judge")
                       ->type_name("FILE");
  const EvalModes modes = {text, task, choices, mt_bench};
  const std::vector<std::pair<CLI::Option*, std::vector<CLI::Option*>>> belongs = {
      {add_count(eval, "-c,--ctx", options.ctx, "tokens of a chunk; default 1024", 2), {text}},
      {add_count(eval, "--stride", options.stride,
                 "tokens from one chunk to the next; default: --ctx, no overlap"),
       {text}},
      {add_count(eval, "--chunks", options.chunks, "at most so many chunks"), {text}},
      {add_count(eval, "--tokens", options.tokens, "at most so many tokens of the text"), {text}},
      {add_count(eval, "--decode-tokens", options.decode_tokens,
                 "tokens decoded for the speed column; 0: no such column; default 128", 0),
       {text}},
      {add_bos(eval, options.bos), {text}},
      {eval.add_option("--begin-with", options.begin_with,
                       "what chunks and questions begin with: a text, a prefix file, 'chat'")
           ->type_name("TEXT|FILE"),
       {text, choices}},
      {add_parsed(eval, "--protocol", options.paper, parse_protocol, "paper",
                  "paper: IntactKV's; --ctx 2048 --bos")
           ->type_name("NAME"),
       {text}},
      {eval.add_option("--few-shot", options.few_shot,
                       "of questions: show so many of the file's first, or those of a file")
           ->type_name("N|FILE"),
       {task, choices}},
      {eval.add_flag("--as-chat", options.as_chat,
                     "of a task: as turns of the chat template, not as plain text"),
       {task}},
      {add_count(eval, "-n,--max-tokens", options.max_tokens,
                 "most tokens of an answer; default 256, for MT-Bench 1024"),
       {task, mt_bench}},
      {add_count(eval, "--limit", options.limit, "at most so many questions"),
       {task, choices, mt_bench}},
      {eval.add_option("-o,--output", options.output, "MT-Bench's answers; goes on where it ended")
           ->type_name("FILE"),
       {mt_bench}},
      {eval.add_option("--model-id", options.model_id,
                       "in the answers; default: the model's name and the recipe's")
           ->type_name("NAME"),
       {mt_bench}},
      {add_parsed(eval, "--sampling", options.fastchat_sampling, parse_sampling,
                  "greedy or fastchat", "greedy, or FastChat's temperatures; default greedy")
           ->type_name("NAME"),
       {mt_bench}},
      {eval.add_option("-s,--seed", options.seed, "of --sampling fastchat; default 0")
           ->type_name("N"),
       {mt_bench}}};
  add_weights(eval, options.weights, "f32");
  add_threads(eval, options.threads);
  eval.add_option("--json", options.json_file, "also write one object per recipe to this file")
      ->type_name("FILE");
  eval.add_flag("-v,--verbose", options.verbose, "which kernels and formats are used, on stderr");
  eval.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
  eval.callback([&options, modes, belongs] {
    const CLI::Option* mode = chosen_mode(modes);
    for (const auto& [option, of] : belongs) {
      if (option->empty() || std::find(of.begin(), of.end(), mode) != of.end()) continue;
      if (mode != modes[0]) throw CLI::ExcludesError(option->get_name(), mode->get_name());
      throw CLI::RequiresError(option->get_name(), names_of(of));
    }
    if (options.bos && options.begin_with) throw CLI::ExcludesError("--bos", "--begin-with");
    if (mode == modes[3] && !options.output) throw CLI::RequiresError("--mt-bench", "-o FILE");
    const char* text_of_environment = std::getenv("LOWKEY_TEXT");
    if (mode != modes[0]) return;
    if (options.text.empty() && text_of_environment) options.text = text_of_environment;
    if (options.text.empty()) {
      throw CLI::ValidationError("no --text FILE given, and no --task, --choices or --mt-bench");
    }
  });
}

void add_bench(CLI::App& bench, BenchOptions& options) {
  bench.footer(footer(kBenchExamples));
  add_model(bench, options.model);
  add_counts(bench, "-p,--n-prompt", options.prompt,
             "tokens of a prompt, each a test (pp); 0: none; default 512");
  add_counts(bench, "-n,--n-gen", options.generate,
             "tokens to generate, each a test (tg); 0: none; default 128");
  add_counts(bench, "-d,--n-depth", options.depths,
             "run each test with so many tokens in the cache; default 0");
  add_count(bench, "-r,--repetitions", options.repetitions,
            "repeat each test so many times; default 5");
  bench
      .add_option_function<std::vector<std::string>>(
          "--kv,--cache",
          [&options](const std::vector<std::string>& texts) {
            options.kv.clear();
            for (const std::string& text : texts) {
              for (std::string& recipe : split_recipes(text)) {
                options.kv.push_back(std::move(recipe));
              }
            }
          },
          "measure these, side by side; may be given again; default 16")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("RECIPE,...");
  add_weights(bench, options.weights, "auto");
  add_threads(bench, options.threads);
  bench
      .add_option("--json", options.json_file,
                  "also write one object per row to FILE; -: instead of the table")
      ->type_name("FILE");
  bench.add_flag("--markdown", options.markdown, "the table in Markdown, recipes written out");
  bench.add_flag("-v,--verbose", options.verbose, "which kernels and formats are used, on stderr");
  bench.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

// "8,4,2": widths that quantize.
std::optional<std::vector<int32_t>> parse_widths(const std::string& text) {
  std::vector<int32_t> widths;
  std::stringstream stream(text);
  for (std::string width; std::getline(stream, width, ',');) {
    if (width != "2" && width != "3" && width != "4" && width != "8") return std::nullopt;
    widths.push_back(width[0] - '0');
  }
  if (widths.empty()) return std::nullopt;
  return widths;
}

std::optional<bool> parse_mode(const std::string& text) {
  if (text == "kivi") return false;
  if (text == "per-token") return true;
  return std::nullopt;
}

void add_probe(CLI::App& probe, ProbeVerbOptions& options) {
  probe.footer(kProbeExamples);
  add_model(probe, options.model);
  probe.add_option("--text", options.text, "the text to measure on, UTF-8 (also: LOWKEY_TEXT)")
      ->envname("LOWKEY_TEXT")
      ->type_name("FILE");
  auto* mode = add_parsed(probe, "--mode", options.per_token, parse_mode, "kivi or per-token",
                          "kivi (keys per channel, R = 32) or per-token; default kivi")
                   ->type_name("MODE");
  auto* bits = add_parsed(probe, "--bits", options.bits, parse_widths,
                          "a list of 8, 4, 3 and 2, such as 4,2",
                          "of keys and of values: every pair; default 8,4,2")
                   ->type_name("N,...");
  probe.add_option("--kv", options.kv, "instead: these short forms, commas between them")
      ->delimiter(',')
      ->type_name("RECIPE,...")
      ->excludes(mode)
      ->excludes(bits);
  add_count(probe, "-c,--ctx", options.ctx, "tokens of a chunk; default 1024", 2);
  add_count(probe, "--chunks", options.chunks, "at most so many chunks; default 2");
  add_count(probe, "--queries", options.queries,
            "measure at so many positions of a chunk; default 256");
  probe
      .add_option("--intact", options.intact,
                  "first tokens of a chunk that stay exact everywhere; default 1")
      ->check(within(0, 65536))
      ->type_name("N");
  probe.add_flag("--sensitivity", options.sensitivity,
                 "also KL and perplexity, one layer changed at a time (minutes)");
  auto* pivots = probe.add_flag("--pivots", options.pivots,
                                "instead: which tokens must stay exact (IntactKV's prefix)");
  auto* against = probe
                      .add_option("--against", options.against,
                                  "of pivots: a quantized version; its error by prefix length")
                      ->type_name("DIR");
  auto* prefix = add_count(probe, "--prefix", options.prefix,
                           "with --against: exact prefixes up to this length; default 32");
  add_weights(probe, options.weights, "f32");
  add_threads(probe, options.threads);
  probe
      .add_option("--json", options.json_file,
                  "also write everything that was measured to this file")
      ->type_name("FILE");
  probe
      .add_option("--report", options.report_file, "the same as a page with pictures, to this file")
      ->type_name("FILE.html");
  probe.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
  probe.callback([pivots, against, prefix] {
    if (!against->empty() && pivots->empty()) throw CLI::RequiresError("--against", "--pivots");
    if (!prefix->empty() && against->empty()) throw CLI::RequiresError("--prefix", "--against");
  });
}

void add_plan(CLI::App& plan, PlanOptions& options) {
  plan.footer(footer(kPlanExamples));
  auto* model = plan.add_option("model,-m,--model", options.model,
                                "a .gguf file or a Hugging Face folder; only its headers are read")
                    ->type_name("MODEL");
  auto* arch = plan.add_option("--arch", options.arch,
                               "instead: a well-known model's public shape; 'list' shows them")
                   ->type_name("NAME")
                   ->excludes(model);
  auto* kv = add_recipes(plan, options.kv,
                         "plan with this; may be given again; default 16, 8, 4, kivi-4, kivi-2");
  add_count(plan, "-c,--ctx", options.ctx, "tokens of each sequence; default 4096");
  add_count(plan, "-b,--batch", options.batch, "sequences; default 1");
  auto* memory =
      add_parsed(plan, "--memory", options.memory, parse_bytes, "a size such as 16GiB or 80GB",
                 "also: the longest context and the largest batch that fit this")
          ->type_name("SIZE");
  plan.add_option("--front", options.front,
                  "instead of --kv: the best in a front.json that fits --memory")
      ->type_name("FILE")
      ->excludes(kv)
      ->needs(memory);
  plan.add_option("--weights-bits", options.weight_bits,
                  "with --arch: bits of each parameter; default 16")
      ->check(within(0.5, 64.0))
      ->needs(arch)
      ->type_name("N");
  plan.add_flag("--json", options.json, "JSON instead of text");
  plan.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

void add_inspect(CLI::App& inspect, InspectOptions& options) {
  inspect.footer(footer(kInspectExamples));
  inspect
      .add_option("path", options.path,
                  "a .gguf or .safetensors file, model folder, recipe, front or prefix")
      ->required()
      ->type_name("PATH");
  add_recipes(inspect, options.kv, "what this costs on the model; may be given again");
  add_count(inspect, "-c,--ctx", options.ctx, "count the cache at this length; default 4096");
  inspect
      .add_option("-m,--model", options.model,
                  "apply the recipe, or show the prefix's text, with this model")
      ->type_name("MODEL");
  inspect.add_flag("--json", options.json, "JSON instead of text");
  inspect.add_flag("--no-color", options.no_color, "no colours (also: NO_COLOR)");
}

void add_convert(CLI::App& convert, ConvertOptions& options) {
  convert.footer(footer(kConvertExamples));
  convert.add_option("input", options.input, "a recipe, KVTuner's .yaml, or ModelOpt's .json")
      ->required()
      ->type_name("INPUT");
  convert
      .add_option("-o,--output", options.output,
                  "*.json: a recipe, *.yaml: KVTuner's; default: JSON to stdout")
      ->type_name("FILE");
  const auto parse = [](const std::string& text) -> std::optional<ImportPreset> {
    if (text == "kivi") return ImportPreset::kKivi;
    if (text == "per-token" || text == "pertoken") return ImportPreset::kPerToken;
    return std::nullopt;
  };
  add_parsed(convert, "--as", options.as, parse, "kivi or per-token",
             "how bits alone are meant: kivi, per-token; default: by the name")
      ->type_name("MODE");
  convert
      .add_option("-m,--model", options.model,
                  "check that the recipe fits this model; says how many layers it has")
      ->type_name("MODEL");
}

// What was typed after the verb, so that it can be typed again.
std::string command_text(int argc, const char* const* argv) {
  std::string text;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n'\"*?$`\\;&|<>()[]{}!#~") == std::string::npos;
    text += (i > 2 ? " " : "") + (plain ? word : "'" + word + "'");
  }
  return text;
}

// A message is one line, whatever a file or a library put into it.
std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

template <typename Options>
int call(const std::string& name, const std::function<int(const Options&)>& verb,
         const Options& options) {
  if (!verb) {
    fail(ErrorCode::kUnsupported,
         "this build has no '{}': it was configured without libtorch (LOWKEY_TORCH=OFF)", name);
  }
  return verb(options);
}

int parse_and_call(int argc, const char* const* argv, const Verbs& verbs, std::ostream& out,
                   std::ostream& err) {
  CLI::App app("Language models with 2-8-bit key/value caches.", "lowkey");
  app.set_version_flag("--version", std::string("lowkey ") + LOWKEY_VERSION);
  app.require_subcommand(1);
  app.footer(
      "'lowkey VERB --help' shows a verb's options and examples.\n"
      "LOWKEY_ISA=scalar|avx2|avx512|neon picks other kernels than the processor's best.\n");
  RunOptions run_options;
  EvalOptions eval_options;
  BenchOptions bench_options;
  ProbeVerbOptions probe_options;
  TuneVerbOptions tune_options;
  CalibrateVerbOptions calibrate_options;
  PlanOptions plan_options;
  InspectOptions inspect_options;
  ConvertOptions convert_options;
  QuantizeVerbOptions quantize_options;
  CLI::App& run = *app.add_subcommand("run", "generate or chat from a quantized cache");
  CLI::App& eval =
      *app.add_subcommand("eval", "one table: what each precision costs in quality and memory");
  CLI::App& bench = *app.add_subcommand("bench", "tokens per second, per cache recipe and depth");
  CLI::App& probe = *app.add_subcommand("probe", "where the error comes from, layer by layer");
  CLI::App& tune =
      *app.add_subcommand("tune", "the best precision for every layer, as a front and a picture");
  CLI::App& calibrate = *app.add_subcommand(
      "calibrate", "a prefix that a quantized model keeps exact, trained or not");
  CLI::App& quantize =
      *app.add_subcommand("quantize", "weights of 2 to 8 bits, as a folder of their own");
  CLI::App& plan = *app.add_subcommand("plan", "how much memory a model needs, and what fits");
  CLI::App& inspect =
      *app.add_subcommand("inspect", "what a model, a tensor file or a recipe holds");
  CLI::App& convert = *app.add_subcommand("convert", "recipes from and to other projects' files");
  add_run(run, run_options);
  add_eval(eval, eval_options);
  add_bench(bench, bench_options);
  add_probe(probe, probe_options);
  add_tune(tune, tune_options);
  add_calibrate(calibrate, calibrate_options);
  add_plan(plan, plan_options);
  add_inspect(inspect, inspect_options);
  add_convert(convert, convert_options);
  add_quantize(quantize, quantize_options);

  if (argc < 2) {
    err << app.help();
    return kExitUsage;
  }
  const auto usage_error = [&](const std::string& what, const std::string& command) {
    err << "lowkey: error: " << one_line(what) << "\nSee '" << command << " --help'.\n";
    return kExitUsage;
  };
  const std::string verb = argv[1];
  const bool known = verb == "run" || verb == "eval" || verb == "bench" || verb == "probe" ||
                     verb == "tune" || verb == "calibrate" || verb == "quantize" ||
                     verb == "plan" || verb == "inspect" || verb == "convert";
  const std::string help = known ? "lowkey " + verb : "lowkey";
  if (!known && !verb.starts_with('-')) {
    return usage_error(fmt::format("unknown verb '{}': {}", verb, kVerbs), help);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked_for) {  // --help, --version
    return app.exit(asked_for, out, err);
  } catch (const CLI::RequiredError& error) {
    const bool no_model = (run.parsed() && run_options.model.empty()) ||
                          (eval.parsed() && eval_options.model.empty()) ||
                          (bench.parsed() && bench_options.model.empty()) ||
                          (probe.parsed() && probe_options.model.empty()) ||
                          (tune.parsed() && tune_options.model.empty()) ||
                          (calibrate.parsed() && calibrate_options.model.empty()) ||
                          (quantize.parsed() && quantize_options.model.empty());
    const std::string what = !known     ? fmt::format("a verb comes first: {}", kVerbs)
                             : no_model ? "no MODEL given"
                                        : error.what();
    return usage_error(what, help);
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what(), help);
  }
  if (plan.parsed() && plan_options.model.empty() && !plan_options.arch) {
    return usage_error("no MODEL given, and no --arch", help);
  }
  if (run_options.quality && !run_options.front) {
    return usage_error(
        "--quality needs --front FILE, a front of recipes: 'lowkey tune MODEL' makes one", help);
  }
  if (run.parsed()) return call("run", verbs.run, run_options);
  if (eval.parsed()) return call("eval", verbs.eval, eval_options);
  if (bench.parsed()) return call("bench", verbs.bench, bench_options);
  if (probe.parsed()) return call("probe", verbs.probe, probe_options);
  if (tune.parsed()) {
    if (tune_options.loss == "task" && !tune_options.task) {
      return usage_error("--loss task needs --task FILE", help);
    }
    tune_options.command = command_text(argc, argv);
    return call("tune", verbs.tune, tune_options);
  }
  if (calibrate.parsed()) {
    const std::string wrong = calibrate_mistake(calibrate_options);
    if (!wrong.empty()) return usage_error(wrong, help);
    calibrate_options.command = command_text(argc, argv);
    return call("calibrate", verbs.calibrate, calibrate_options);
  }
  if (quantize.parsed()) {
    quantize_options.command = command_text(argc, argv);
    return call("quantize", verbs.quantize, quantize_options);
  }
  if (plan.parsed()) return call("plan", verbs.plan, plan_options);
  if (convert.parsed()) return call("convert", verbs.convert, convert_options);
  return call("inspect", verbs.inspect, inspect_options);
}

}  // namespace

int run_cli(int argc, const char* const* argv, const Verbs& verbs, std::ostream& out,
            std::ostream& err) noexcept {
  try {
    return parse_and_call(argc, argv, verbs, out, err);
  } catch (const std::exception& error) {
    err << "lowkey: error: " << one_line(error.what()) << '\n';
    return kExitError;
  }
}

}  // namespace lowkey
