#include "cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <sstream>

#include "core/error.h"

namespace lowkey {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Runs the command line with verbs that keep what they were asked.
class CliTest : public testing::Test {
 protected:
  CliTest() {
    ::unsetenv("LOWKEY_TEXT");
    verbs_.run = [this](const RunOptions& options) {
      run_ = options;
      return kExitOk;
    };
    verbs_.eval = [this](const EvalOptions& options) {
      eval_ = options;
      return kExitOk;
    };
    verbs_.bench = [this](const BenchOptions& options) {
      bench_ = options;
      return kExitOk;
    };
    verbs_.probe = [this](const ProbeVerbOptions& options) {
      probe_ = options;
      return kExitOk;
    };
    verbs_.tune = [this](const TuneVerbOptions& options) {
      tune_ = options;
      return kExitOk;
    };
    verbs_.calibrate = [this](const CalibrateVerbOptions& options) {
      calibrate_ = options;
      return kExitOk;
    };
    verbs_.quantize = [this](const QuantizeVerbOptions& options) {
      quantize_ = options;
      return kExitOk;
    };
    verbs_.plan = [this](const PlanOptions& options) {
      plan_ = options;
      return kExitOk;
    };
    verbs_.inspect = [this](const InspectOptions& options) {
      inspect_ = options;
      return kExitOk;
    };
    verbs_.convert = [this](const ConvertOptions& options) {
      convert_ = options;
      return kExitOk;
    };
  }

  int call(std::vector<const char*> arguments) {
    out_.str("");
    err_.str("");
    arguments.insert(arguments.begin(), "lowkey");
    return run_cli(static_cast<int>(arguments.size()), arguments.data(), verbs_, out_, err_);
  }

  Verbs verbs_;
  std::optional<RunOptions> run_;
  std::optional<EvalOptions> eval_;
  std::optional<BenchOptions> bench_;
  std::optional<ProbeVerbOptions> probe_;
  std::optional<TuneVerbOptions> tune_;
  std::optional<CalibrateVerbOptions> calibrate_;
  std::optional<QuantizeVerbOptions> quantize_;
  std::optional<PlanOptions> plan_;
  std::optional<InspectOptions> inspect_;
  std::optional<ConvertOptions> convert_;
  std::ostringstream out_, err_;
};

TEST_F(CliTest, RunDefaults) {
  ASSERT_EQ(call({"run", "m.gguf"}), kExitOk) << err_.str();
  EXPECT_EQ(run_->model, "m.gguf");
  EXPECT_EQ(run_->kv, "16");
  EXPECT_EQ(run_->weights, WeightsOption::kAuto);
  EXPECT_FALSE(run_->prompt || run_->prompt_file || run_->max_tokens || run_->ctx || run_->system);
  const SamplingFlags& sampling = run_->sampling;
  EXPECT_FALSE(sampling.temperature || sampling.top_k || sampling.top_p || sampling.min_p ||
               sampling.seed);
  EXPECT_THAT(run_->stop, IsEmpty());
  EXPECT_EQ(run_->threads, 0);
  EXPECT_FALSE(run_->raw || run_->verbose || run_->json || run_->no_color);
}

TEST_F(CliTest, RunTakesEverything) {
  ASSERT_EQ(call({"run",
                  "-m",
                  "m.gguf",
                  "-p",
                  "Hi, [you]",
                  "--kv",
                  "0-1=16,*=kivi-4/2:r32+i1",
                  "-n",
                  "20",
                  "-c",
                  "32k",
                  "--temp",
                  "0.7",
                  "--top-k",
                  "40",
                  "--top-p",
                  "0.9",
                  "--min-p",
                  "0.05",
                  "-s",
                  "7",
                  "--stop",
                  "a,b",
                  "--stop",
                  "c",
                  "--system",
                  "Be brief.",
                  "--raw",
                  "-t",
                  "2",
                  "-v",
                  "--json",
                  "--no-color",
                  "--weights",
                  "file"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(run_->model, "m.gguf");
  EXPECT_EQ(run_->prompt, "Hi, [you]");
  EXPECT_EQ(run_->kv, "0-1=16,*=kivi-4/2:r32+i1");
  EXPECT_EQ(run_->max_tokens, 20);
  EXPECT_EQ(run_->ctx, 32768);
  EXPECT_EQ(run_->sampling.temperature, 0.7);
  EXPECT_EQ(run_->sampling.top_k, 40);
  EXPECT_EQ(run_->sampling.top_p, 0.9);
  EXPECT_EQ(run_->sampling.min_p, 0.05);
  EXPECT_EQ(run_->sampling.seed, 7u);
  EXPECT_THAT(run_->stop, ElementsAre("a,b", "c"));
  EXPECT_EQ(run_->system, "Be brief.");
  EXPECT_EQ(run_->weights, WeightsOption::kFile);
  EXPECT_EQ(run_->threads, 2);
  EXPECT_TRUE(run_->raw && run_->verbose && run_->json && run_->no_color);
}

TEST_F(CliTest, RunPromptMayBeEmptyOrStartWithADash) {
  ASSERT_EQ(call({"run", "m", "-p", ""}), kExitOk) << err_.str();
  EXPECT_EQ(run_->prompt, "");
  ASSERT_EQ(call({"run", "m", "--prompt=--kv"}), kExitOk) << err_.str();
  EXPECT_EQ(run_->prompt, "--kv");
}

TEST_F(CliTest, RunPromptFromFileOrStandardInput) {
  ASSERT_EQ(call({"run", "m", "-f", "-"}), kExitOk) << err_.str();
  EXPECT_EQ(run_->prompt_file, "-");
}

TEST_F(CliTest, GreedyIsTemperatureZero) {
  ASSERT_EQ(call({"run", "m", "--greedy"}), kExitOk) << err_.str();
  EXPECT_EQ(run_->sampling.temperature, 0.0);
}

TEST_F(CliTest, EvalTakesRecipesInOrder) {
  ASSERT_EQ(call({"eval",
                  "--kv",
                  "8",
                  "m.gguf",
                  "--kv",
                  "0=8,*=kivi-2",
                  "--text",
                  "t.txt",
                  "--stride",
                  "512",
                  "--chunks",
                  "3",
                  "--tokens",
                  "10k",
                  "--json",
                  "r.json",
                  "--decode-tokens",
                  "0",
                  "--weights",
                  "bf16"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(eval_->model, "m.gguf");
  EXPECT_THAT(eval_->kv, ElementsAre("8", "0=8,*=kivi-2"));
  EXPECT_EQ(eval_->text, "t.txt");
  EXPECT_FALSE(eval_->ctx);
  EXPECT_EQ(eval_->stride, 512);
  EXPECT_EQ(eval_->chunks, 3);
  EXPECT_EQ(eval_->tokens, 10240);
  EXPECT_EQ(eval_->json_file, "r.json");
  EXPECT_EQ(eval_->decode_tokens, 0);
  EXPECT_EQ(eval_->weights, WeightsOption::kBf16);
}

TEST_F(CliTest, EvalDefaultsToF32AndTheTextOfTheEnvironment) {
  ::setenv("LOWKEY_TEXT", "from-env.txt", 1);
  ASSERT_EQ(call({"eval", "m"}), kExitOk) << err_.str();
  ::unsetenv("LOWKEY_TEXT");
  EXPECT_EQ(eval_->text, "from-env.txt");
  EXPECT_EQ(eval_->weights, WeightsOption::kF32);
  EXPECT_EQ(eval_->decode_tokens, 128);
  EXPECT_THAT(eval_->kv, IsEmpty());
  EXPECT_FALSE(eval_->stride || eval_->chunks || eval_->tokens || eval_->json_file);
}

TEST_F(CliTest, EvalTakesATask) {
  ::setenv("LOWKEY_TEXT", "from-env.txt", 1);  // for other calls: this one names a task
  ASSERT_EQ(call({"eval", "m", "--kv", "8", "--task", "q.jsonl", "--few-shot", "4", "--as-chat",
                  "--max-tokens", "1k", "--limit", "100", "--json", "r.json"}),
            kExitOk)
      << err_.str();
  ::unsetenv("LOWKEY_TEXT");
  EXPECT_EQ(eval_->task, "q.jsonl");
  EXPECT_EQ(eval_->text, "");
  EXPECT_EQ(eval_->few_shot, "4");
  EXPECT_TRUE(eval_->as_chat);
  EXPECT_EQ(eval_->max_tokens, 1024);
  EXPECT_EQ(eval_->limit, 100);
  ASSERT_EQ(call({"eval", "m", "--task", "q.jsonl"}), kExitOk) << err_.str();
  EXPECT_EQ(eval_->few_shot, "");
  EXPECT_FALSE(eval_->max_tokens || eval_->as_chat || eval_->limit);
}

TEST_F(CliTest, EvalBeginsChunksAsItIsTold) {
  // The word after --bos is the model, not an id.
  ASSERT_EQ(call({"eval", "--bos", "m", "--text", "t"}), kExitOk) << err_.str();
  EXPECT_EQ(eval_->bos, "model");
  EXPECT_EQ(eval_->model, "m");
  ASSERT_EQ(call({"eval", "m", "--text", "t", "--bos=17"}), kExitOk) << err_.str();
  EXPECT_EQ(eval_->bos, "17");
  ASSERT_EQ(call({"eval", "m", "--text", "t", "--begin-with", "chat"}), kExitOk) << err_.str();
  EXPECT_EQ(eval_->begin_with, "chat");
  EXPECT_FALSE(eval_->bos || eval_->paper);
  ASSERT_EQ(call({"eval", "m", "--text", "t", "--protocol", "paper"}), kExitOk) << err_.str();
  EXPECT_TRUE(eval_->paper);
  EXPECT_FALSE(eval_->ctx);
}

TEST_F(CliTest, EvalTakesChoicesAndMtBench) {
  ASSERT_EQ(call({"eval", "m", "--choices", "c.jsonl", "--few-shot", "5", "--limit", "9"}), kExitOk)
      << err_.str();
  EXPECT_EQ(eval_->choices, "c.jsonl");
  EXPECT_EQ(eval_->few_shot, "5");
  EXPECT_EQ(eval_->limit, 9);
  ASSERT_EQ(call({"eval", "m", "--mt-bench", "q.jsonl", "-o", "a.jsonl", "--model-id", "x",
                  "--sampling", "fastchat", "--seed", "42", "-n", "64"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(eval_->mt_bench, "q.jsonl");
  EXPECT_EQ(eval_->output, "a.jsonl");
  EXPECT_EQ(eval_->model_id, "x");
  EXPECT_TRUE(eval_->fastchat_sampling);
  EXPECT_EQ(eval_->seed, 42u);
  EXPECT_EQ(eval_->max_tokens, 64);
}

TEST_F(CliTest, Inspect) {
  ASSERT_EQ(call({"inspect", "r.json", "--model", "m.gguf", "-c", "8k", "--json"}), kExitOk);
  EXPECT_EQ(inspect_->path, "r.json");
  EXPECT_EQ(inspect_->model, "m.gguf");
  EXPECT_EQ(inspect_->ctx, 8192);
  EXPECT_TRUE(inspect_->json);
}

TEST_F(CliTest, Plan) {
  ASSERT_EQ(call({"plan", "m.gguf"}), kExitOk) << err_.str();
  EXPECT_EQ(plan_->model, "m.gguf");
  EXPECT_EQ(plan_->batch, 1);
  EXPECT_THAT(plan_->kv, IsEmpty());
  EXPECT_FALSE(plan_->arch || plan_->ctx || plan_->memory || plan_->weight_bits || plan_->json);
  ASSERT_EQ(call({"plan", "--arch", "Llama-2-7B", "--kv", "16", "--kv", "0=8,*=4", "-c", "32k",
                  "-b", "8", "--memory", "16GiB", "--weights-bits", "4.5", "--json"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(plan_->arch, "Llama-2-7B");
  EXPECT_THAT(plan_->kv, ElementsAre("16", "0=8,*=4"));
  EXPECT_EQ(plan_->ctx, 32768);
  EXPECT_EQ(plan_->batch, 8);
  EXPECT_EQ(plan_->memory, int64_t{16} << 30);
  EXPECT_EQ(plan_->weight_bits, 4.5);
  EXPECT_TRUE(plan_->json && plan_->model.empty());
}

TEST_F(CliTest, RunTakesAQualityOfAFront) {
  ASSERT_EQ(call({"run", "m", "--quality", "balanced", "--front", "tuned"}), kExitOk) << err_.str();
  EXPECT_EQ(run_->quality, Quality::kBalanced);
  EXPECT_EQ(run_->front, "tuned");
  EXPECT_EQ(run_->kv, "16");
}

TEST_F(CliTest, PlanTakesAFront) {
  ASSERT_EQ(call({"plan", "m", "--front", "f.json", "--memory", "6GiB"}), kExitOk) << err_.str();
  EXPECT_EQ(plan_->front, "f.json");
  EXPECT_EQ(plan_->memory, int64_t{6} << 30);
}

TEST_F(CliTest, Convert) {
  ASSERT_EQ(call({"convert", "p.yaml"}), kExitOk) << err_.str();
  EXPECT_EQ(convert_->input, "p.yaml");
  EXPECT_FALSE(convert_->output || convert_->as || convert_->model);
  ASSERT_EQ(call({"convert", "p.yaml", "-o", "r.json", "--as", "kivi", "-m", "m.gguf"}), kExitOk);
  EXPECT_EQ(convert_->output, "r.json");
  EXPECT_EQ(convert_->as, ImportPreset::kKivi);
  EXPECT_EQ(convert_->model, "m.gguf");
  ASSERT_EQ(call({"convert", "p.yaml", "--as", "per-token"}), kExitOk);
  EXPECT_EQ(convert_->as, ImportPreset::kPerToken);
}

TEST_F(CliTest, CalibrateOptions) {
  ASSERT_EQ(call({"calibrate", "m.gguf", "-o", "p.safetensors"}), kExitOk) << err_.str();
  EXPECT_EQ(calibrate_->what, "intact");
  EXPECT_EQ(calibrate_->out, "p.safetensors");
  EXPECT_EQ(calibrate_->prefix, "");
  EXPECT_EQ(calibrate_->samples, 128);
  EXPECT_EQ(calibrate_->tokens, 512);
  EXPECT_EQ(calibrate_->steps, 64);
  EXPECT_EQ(calibrate_->learning_rate, 2e-4);
  EXPECT_EQ(calibrate_->clip, 0.3);
  EXPECT_EQ(calibrate_->accumulation, 16);
  EXPECT_FALSE(calibrate_->student);
  ASSERT_EQ(
      call({"calibrate",       "m",        "-o",        "p", "--what", "prefix", "--length", "64",
            "--prefix",        "text:a b", "--student", "s", "--loss", "kl",     "--chats",  "a",
            "--chats",         "b",        "--kv-bits", "4", "--lr",   "1e-3",   "--steps",  "0",
            "--target-memory", "2GiB"}),
      kExitOk)
      << err_.str();
  EXPECT_EQ(calibrate_->length, 64);
  EXPECT_EQ(calibrate_->chats, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(calibrate_->bits, 4);
  EXPECT_EQ(calibrate_->steps, 0);
  EXPECT_EQ(calibrate_->target_memory, int64_t{2} << 30);
  EXPECT_THAT(calibrate_->command, HasSubstr("--prefix 'text:a b'"));
}

TEST_F(CliTest, QuantizeOptions) {
  ASSERT_EQ(call({"quantize", "m.gguf", "-o", "out"}), kExitOk) << err_.str();
  EXPECT_EQ(quantize_->model, "m.gguf");
  EXPECT_EQ(quantize_->output, "out");
  EXPECT_EQ(quantize_->method, "rtn");
  EXPECT_EQ(quantize_->bits, 4);
  EXPECT_EQ(quantize_->group, 128);
  EXPECT_EQ(quantize_->samples, 128);
  EXPECT_EQ(quantize_->ctx, 512);
  EXPECT_FALSE(quantize_->text);
  EXPECT_FALSE(quantize_->force);
  ASSERT_EQ(call({"quantize",  "m",          "--method", "quarot",     "-b",   "3",      "-g",
                  "0",         "--act-bits", "4",        "--rounding", "gptq", "--text", "a b.txt",
                  "--samples", "16",         "-c",       "1k",         "-s",   "7",      "--force",
                  "-o",        "out",        "--json",   "r.json"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(quantize_->bits, 3);
  EXPECT_EQ(quantize_->group, 0);
  EXPECT_EQ(quantize_->activation_bits, 4);
  EXPECT_EQ(quantize_->rounding, "gptq");
  EXPECT_EQ(quantize_->samples, 16);
  EXPECT_EQ(quantize_->ctx, 1024);
  EXPECT_EQ(quantize_->seed, 7u);
  EXPECT_TRUE(quantize_->force);
  EXPECT_THAT(quantize_->command, HasSubstr("--text 'a b.txt'"));
}

TEST_F(CliTest, HelpOfEveryVerbHasExamplesAndGoesToOut) {
  ASSERT_EQ(call({"--help"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("inspect"));
  for (const char* verb : {"run", "eval", "bench", "probe", "tune", "calibrate", "quantize", "plan",
                           "inspect", "convert"}) {
    ASSERT_EQ(call({verb, "--help"}), kExitOk) << verb;
    EXPECT_THAT(out_.str(), HasSubstr("Examples:\n  lowkey " + std::string(verb))) << verb;
    EXPECT_THAT(out_.str(), HasSubstr("kivi-4")) << verb;
    EXPECT_THAT(err_.str(), IsEmpty()) << verb;
    std::istringstream lines(out_.str());
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  }
  EXPECT_FALSE(run_ || eval_ || probe_ || tune_ || calibrate_ || quantize_ || plan_ || inspect_ ||
               convert_);
}

TEST_F(CliTest, Version) {
  ASSERT_EQ(call({"--version"}), kExitOk);
  EXPECT_THAT(out_.str(), testing::MatchesRegex("lowkey [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(CliTest, NothingAskedShowsHelpAsAUsageError) {
  EXPECT_EQ(call({}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("Usage: lowkey"));
  EXPECT_THAT(out_.str(), IsEmpty());
}

struct Wrong {
  std::vector<const char*> arguments;
  const char* message;
};

class CliRefuses : public CliTest, public testing::WithParamInterface<Wrong> {};

TEST_P(CliRefuses, WithTwoAndAPointerToHelp) {
  EXPECT_EQ(call(GetParam().arguments), kExitUsage);
  const std::string verb = GetParam().arguments[0];
  const std::set<std::string> verbs{"run",       "eval", "bench",   "probe",   "tune",
                                    "calibrate", "plan", "inspect", "convert", "quantize"};
  const bool known = verbs.contains(verb);
  EXPECT_EQ(err_.str(), std::string("lowkey: error: ") + GetParam().message + "\nSee 'lowkey " +
                            (known ? verb + " " : "") + "--help'.\n");
  EXPECT_THAT(out_.str(), IsEmpty());
  EXPECT_FALSE(run_ || eval_ || probe_ || tune_ || calibrate_ || quantize_ || plan_ || inspect_ ||
               convert_);
}

INSTANTIATE_TEST_SUITE_P(
    Usage, CliRefuses,
    testing::Values(
        Wrong{{"probe"}, "no MODEL given"}, Wrong{{"quantize", "-o", "x"}, "no MODEL given"},
        Wrong{{"probe", "m", "--mode", "group"}, "--mode: 'group' is not kivi or per-token"},
        Wrong{{"probe", "m", "--bits", "8,5"},
              "--bits: '8,5' is not a list of 8, 4, 3 and 2, such as 4,2"},
        Wrong{{"probe", "m", "--bits", "4", "--kv", "2"}, "--bits excludes --kv"},
        Wrong{{"probe", "m", "--ctx", "1"},
              "-c,--ctx: '1' is not a count of at least 2, such as 4096 or 32k"},
        Wrong{{"chat"},
              "unknown verb 'chat': run, eval, bench, probe, tune, calibrate, quantize, plan, "
              "inspect or convert"},
        Wrong{{"--bogus"},
              "a verb comes first: run, eval, bench, probe, tune, calibrate, quantize, plan, "
              "inspect or convert"},
        Wrong{{"calibrate"}, "no MODEL given"}, Wrong{{"calibrate", "m"}, "--out is required"},
        Wrong{{"calibrate", "m", "-o", "p", "--what", "kv"},
              "--what: 'kv' is not intact or prefix"},
        Wrong{{"calibrate", "m", "-o", "p", "--kv-bits", "5"},
              "--kv-bits: '5' is not 16, 8, 4, 3 or 2"},
        Wrong{{"calibrate", "m", "-o", "p", "--weights", "packed"},
              "--weights: 'packed' is not auto, f32 or bf16"},
        Wrong{{"calibrate", "m", "-o", "p", "--text", "t"},
              "--text and --chats are for training, which needs --student DIR"},
        Wrong{{"calibrate", "m", "-o", "p", "--report", "r"},
              "--report shows a training, which needs --student DIR"},
        Wrong{{"calibrate", "m", "-o", "p", "--length", "8"},
              "--length is for --what prefix: an intact prefix is as long as --prefix says"},
        Wrong{{"calibrate", "m", "-o", "p", "--what", "prefix", "--student", "s"},
              "--what prefix needs --length N"},
        Wrong{{"calibrate", "m", "-o", "p", "--what", "prefix", "--length", "8"},
              "--what prefix needs --student DIR: a prefix that is not trained is --what intact"},
        Wrong{{"tune"}, "no MODEL given"}, Wrong{{"tune", "m"}, "--out is required"},
        Wrong{{"tune", "m", "-o", "d", "--mode", "best"},
              "--mode: 'best' is not kivi, per-token or both"},
        Wrong{{"tune", "m", "-o", "d", "--loss", "task"}, "--loss task needs --task FILE"},
        Wrong{{"tune", "m", "-o", "d", "--trials", "0"},
              "--trials: '0' is not a count of at least 1, such as 4096 or 32k"},
        Wrong{{"bench"}, "no MODEL given"},
        Wrong{{"bench", "m", "-d", "0,deep"},
              "-d,--n-depth: 'deep' is not a count such as 128 or 4k"},
        Wrong{{"bench", "m", "-p", "-5"}, "-p,--n-prompt: '-5' is not a count such as 128 or 4k"},
        Wrong{{"bench", "m", "-r", "0"},
              "-r,--repetitions: '0' is not a count of at least 1, such as 4096 or 32k"},
        Wrong{{"plan"}, "no MODEL given, and no --arch"},
        Wrong{{"plan", "m", "--arch", "x"}, "--model excludes --arch"},
        Wrong{{"plan", "m", "--weights-bits", "4"}, "--weights-bits requires --arch"},
        Wrong{{"plan", "m", "--memory", "much"},
              "--memory: 'much' is not a size such as 16GiB or 80GB"},
        Wrong{{"run", "m", "--quality", "best", "--front", "f"},
              "--quality: 'best' is not lossless, balanced or compact"},
        Wrong{{"run", "m", "--quality", "compact"},
              "--quality needs --front FILE, a front of recipes: 'lowkey tune MODEL' makes one"},
        Wrong{{"run", "m", "--quality", "compact", "--front", "f", "--kv", "8"},
              "--kv excludes --quality"},
        Wrong{{"run", "m", "--front", "f"}, "--front requires --quality"},
        Wrong{{"plan", "m", "--front", "f"}, "--front requires --memory"},
        Wrong{{"plan", "m", "--front", "f", "--memory", "1g", "--kv", "8"},
              "--kv excludes --front"},
        Wrong{{"convert"}, "input is required"},
        Wrong{{"convert", "p.yaml", "--as", "nvfp4"}, "--as: 'nvfp4' is not kivi or per-token"},
        Wrong{{"run"}, "no MODEL given"}, Wrong{{"eval"}, "no MODEL given"},
        Wrong{{"eval", "m"}, "no --text FILE given, and no --task, --choices or --mt-bench"},
        Wrong{{"eval", "m", "--text", "t", "--task", "q"}, "--text excludes --task"},
        Wrong{{"eval", "m", "--text", "t", "--limit", "3"},
              "--limit requires --task, --choices or --mt-bench"},
        Wrong{{"eval", "m", "--text", "t", "--few-shot", "3"},
              "--few-shot requires --task or --choices"},
        Wrong{{"eval", "m", "--text", "t", "--as-chat"}, "--as-chat requires --task"},
        Wrong{{"eval", "m", "--text", "t", "-n", "9"},
              "--max-tokens requires --task or --mt-bench"},
        Wrong{{"eval", "m", "--task", "q", "--stride", "9"}, "--stride excludes --task"},
        Wrong{{"eval", "m", "--choices", "q", "-n", "9"}, "--max-tokens excludes --choices"},
        Wrong{{"eval", "m", "--choices", "q", "--bos"}, "--bos excludes --choices"},
        Wrong{{"eval", "m", "--task", "q", "--choices", "q"}, "--task excludes --choices"},
        Wrong{{"eval", "m", "--mt-bench", "q"}, "--mt-bench requires -o FILE"},
        Wrong{{"eval", "m", "--text", "t", "--bos", "--begin-with", "a"},
              "--bos excludes --begin-with"},
        Wrong{{"eval", "m", "--text", "t", "--bos=x"}, "--bos: 'x' is not a token's id"},
        Wrong{{"eval", "m", "--text", "t", "--protocol", "mine"},
              "--protocol: 'mine' is not paper"},
        Wrong{{"probe", "m", "--against", "d"}, "--against requires --pivots"},
        Wrong{{"probe", "m", "--pivots", "--prefix", "9"}, "--prefix requires --against"},
        Wrong{{"eval", "m", "--task", "q", "--limit", "0"},
              "--limit: '0' is not a count of at least 1, such as 4096 or 32k"},
        Wrong{{"inspect"}, "path is required"},
        Wrong{{"run", "m", "--bogus"}, "The following argument was not expected: --bogus"},
        Wrong{{"run", "m", "other"}, "The following argument was not expected: other"},
        Wrong{{"run", "m", "-p", "a", "-f", "b"}, "--prompt excludes --file"},
        Wrong{{"run", "m", "--greedy", "--temp", "1"}, "--temperature excludes --greedy"},
        Wrong{{"run", "m", "-n", "0"},
              "-n,--max-tokens: '0' is not a count of at least 1, such as 4096 or 32k"},
        Wrong{{"run", "m", "-c", "lots"},
              "-c,--ctx: 'lots' is not a count of at least 1, such as 4096 or 32k"},
        Wrong{{"eval", "m", "--text", "t", "-c", "1"},
              "-c,--ctx: '1' is not a count of at least 2, such as 4096 or 32k"},
        Wrong{{"run", "m", "--weights", "q4"},
              "--weights: 'q4' is not auto, f32, bf16, file or packed"},
        Wrong{{"run", "m", "--temperature", "-1"},
              "--temperature: Value -1 not in range 0.000000 to 100.000000"},
        Wrong{{"run", "m", "--top-p", "1.5"},
              "--top-p: Value 1.5 not in range 0.000000 to 1.000000"},
        Wrong{{"run", "m", "--seed", "many"}, "Could not convert: --seed = many"}));

TEST_F(CliTest, BenchDefaultsAreLlamaBenchs) {
  ASSERT_EQ(call({"bench", "m.gguf"}), kExitOk) << err_.str();
  EXPECT_EQ(bench_->model, "m.gguf");
  EXPECT_THAT(bench_->kv, ElementsAre("16"));
  EXPECT_THAT(bench_->prompt, ElementsAre(512));
  EXPECT_THAT(bench_->generate, ElementsAre(128));
  EXPECT_THAT(bench_->depths, ElementsAre(0));
  EXPECT_EQ(bench_->repetitions, 5);
  EXPECT_FALSE(bench_->json_file || bench_->markdown || bench_->verbose);
}

TEST_F(CliTest, BenchTakesListsAndRepeats) {
  ASSERT_EQ(
      call({"bench",   "m.gguf", "-p",   "128,4k",          "-n", "0", "-d", "0", "-d",     "1k",
            "--cache", "16,8/4", "--kv", "0-1=16,*=kivi-2", "-r", "3", "-t", "2", "--json", "-"}),
      kExitOk)
      << err_.str();
  EXPECT_THAT(bench_->prompt, ElementsAre(128, 4096));
  EXPECT_THAT(bench_->generate, ElementsAre(0));
  EXPECT_THAT(bench_->depths, ElementsAre(0, 1024));
  EXPECT_THAT(bench_->kv, ElementsAre("16", "8/4", "0-1=16,*=kivi-2"));
  EXPECT_EQ(bench_->repetitions, 3);
  EXPECT_EQ(bench_->threads, 2);
  EXPECT_EQ(bench_->json_file, "-");
}

TEST_F(CliTest, ProbeDefaultsToKiviInEightFourAndTwoBits) {
  ASSERT_EQ(call({"probe", "m.gguf"}), kExitOk) << err_.str();
  EXPECT_FALSE(probe_->text || probe_->json_file || probe_->per_token || probe_->no_color);
  EXPECT_THAT(probe_->bits, ElementsAre(8, 4, 2));
  EXPECT_THAT(probe_->kv, IsEmpty());
  EXPECT_EQ(probe_->ctx, 1024);
  EXPECT_EQ(probe_->chunks, 2);
  EXPECT_EQ(probe_->queries, 256);
  EXPECT_EQ(probe_->intact, 1);
  EXPECT_EQ(probe_->weights, WeightsOption::kF32);
}

TEST_F(CliTest, ProbeTakesEverything) {
  ASSERT_EQ(call({"probe",    "m.gguf",   "--text",    "t.txt",     "--mode", "per-token", "--bits",
                  "4,3",      "-c",       "2k",        "--chunks",  "5",      "--queries", "100",
                  "--intact", "0",        "--weights", "file",      "-t",     "2",         "--json",
                  "p.json",   "--report", "p.html",    "--no-color"}),
            kExitOk)
      << err_.str();
  EXPECT_EQ(probe_->text, "t.txt");
  EXPECT_TRUE(probe_->per_token);
  EXPECT_THAT(probe_->bits, ElementsAre(4, 3));
  EXPECT_EQ(probe_->ctx, 2048);
  EXPECT_EQ(probe_->chunks, 5);
  EXPECT_EQ(probe_->queries, 100);
  EXPECT_EQ(probe_->intact, 0);
  EXPECT_EQ(probe_->weights, WeightsOption::kFile);
  EXPECT_EQ(probe_->threads, 2);
  EXPECT_EQ(probe_->json_file, "p.json");
  EXPECT_EQ(probe_->report_file, "p.html");
  EXPECT_TRUE(probe_->no_color);

  ASSERT_EQ(call({"probe", "m.gguf", "--kv", "kivi-4/2:r32,2"}), kExitOk) << err_.str();
  EXPECT_THAT(probe_->kv, ElementsAre("kivi-4/2:r32", "2"));
}

TEST_F(CliTest, OperatingErrorsAreOneLineAndOne) {
  verbs_.run = [](const RunOptions&) -> int {
    fail(ErrorCode::kNotFound, "m.gguf: no such\nfile");
  };
  EXPECT_EQ(call({"run", "m.gguf"}), kExitError);
  EXPECT_EQ(err_.str(), "lowkey: error: m.gguf: no such file\n");
}

TEST_F(CliTest, OtherExceptionsToo) {
  verbs_.run = [](const RunOptions&) -> int { throw std::bad_alloc(); };
  EXPECT_EQ(call({"run", "m.gguf"}), kExitError);
  EXPECT_EQ(err_.str(), "lowkey: error: std::bad_alloc\n");
}

TEST_F(CliTest, TheVerbsExitCodeIsThePrograms) {
  verbs_.inspect = [](const InspectOptions&) { return 7; };
  EXPECT_EQ(call({"inspect", "x"}), 7);
}

TEST_F(CliTest, MissingVerbsSayWhy) {
  verbs_ = {};
  EXPECT_EQ(call({"run", "m"}), kExitError);
  EXPECT_EQ(err_.str(),
            "lowkey: error: this build has no 'run': it was configured without libtorch "
            "(LOWKEY_TORCH=OFF)\n");
}

}  // namespace
}  // namespace lowkey
