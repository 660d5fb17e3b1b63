#pragma once
// The verbs of the program as plain functions: main.cc fills the options, one file per verb does
// the work. Each returns the exit code; operating errors are thrown as lowkey::Error.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recipe/front.h"
#include "recipe/import.h"

namespace lowkey {

// How weights are held: kFile keeps the file's own blocks, kAuto decides by the machine.
enum class WeightsOption : uint8_t { kAuto, kF32, kBf16, kFile, kPacked };

// What is absent is taken from the model's generation defaults, else from the engine.
struct SamplingFlags {
  std::optional<double> temperature;  // 0: greedy
  std::optional<double> top_p, min_p;
  std::optional<int32_t> top_k;  // 0: off
  std::optional<uint64_t> seed;
};

struct RunOptions {
  std::string model;
  std::optional<std::string> prompt;       // -p; neither this nor prompt_file: interactive
  std::optional<std::string> prompt_file;  // -f; "-" is standard input
  std::string kv = "16";
  std::optional<Quality> quality;    // instead of kv: a point of `front`
  std::optional<std::string> front;  // a front's file, or a folder with one
  WeightsOption weights = WeightsOption::kAuto;
  std::optional<int64_t> max_tokens;  // absent: until the model ends or the context is full
  SamplingFlags sampling;
  std::vector<std::string> stop;
  std::optional<int64_t> ctx;  // absent: the model's
  int threads = 0;             // 0: every core the process may use
  std::optional<std::string> system;
  bool raw = false;  // the prompt as it is, without the chat template
  bool verbose = false;
  bool json = false;
  bool no_color = false;
};

struct EvalOptions {
  std::string model;
  std::vector<std::string> kv;  // measured besides 16, which is always the reference
  // What is measured on; one of the four.
  std::string text;                     // a file; empty: another of them
  std::optional<std::string> task;      // questions and answers, JSONL
  std::optional<std::string> choices;   // questions with choices, JSONL
  std::optional<std::string> mt_bench;  // MT-Bench's questions, JSONL
  // With text.
  std::optional<int64_t> ctx;             // absent: 1024, or the protocol's
  std::optional<int64_t> stride;          // absent: ctx, so that chunks do not overlap
  std::optional<int64_t> chunks, tokens;  // how much of the text; absent: all
  std::optional<std::string> bos;         // each chunk's first token: "model", or an id
  std::optional<std::string> begin_with;  // each chunk's first tokens (prompt_beginning.h)
  bool paper = false;                     // IntactKV's protocol
  int64_t decode_tokens = 128;            // measured for the speed column; 0: no such column
  // With questions.
  std::string few_shot;               // "", a number, or a file
  bool as_chat = false;               // turns of the chat template, not plain text
  std::optional<int64_t> max_tokens;  // of each answer; absent: 256, MT-Bench's 1024
  std::optional<int64_t> limit;       // at most so many questions
  // With mt_bench.
  std::optional<std::string> output;    // a file of answers, which is gone on with
  std::optional<std::string> model_id;  // in the answers; absent: of the model's and recipe's names
  bool fastchat_sampling = false;       // FastChat's temperatures, not greedy
  uint64_t seed = 0;
  WeightsOption weights = WeightsOption::kF32;
  int threads = 0;
  std::optional<std::string> json_file;
  bool verbose = false;
  bool no_color = false;
};

struct BenchOptions {
  std::string model;
  std::vector<std::string> kv = {"16"};
  std::vector<int64_t> prompt = {512};    // tokens of each prompt test; 0: none
  std::vector<int64_t> generate = {128};  // tokens of each generation test; 0: none
  std::vector<int64_t> depths = {0};      // tokens in the cache before a test starts
  int64_t repetitions = 5;
  WeightsOption weights = WeightsOption::kAuto;
  int threads = 0;
  std::optional<std::string> json_file;  // "-": standard output, instead of the table
  bool markdown = false;
  bool verbose = false;
  bool no_color = false;
};

// `lowkey tune`. Words are checked where they are parsed.
struct TuneVerbOptions {
  std::string model;
  std::string command;           // as typed, for provenance
  std::string out;               // a folder
  std::optional<double> budget;  // bits: which point of the front the closing lines are about
  // What is measured on; none of the three: conversations that the model has with itself.
  std::vector<std::string> texts;       // files of plain text
  std::vector<std::string> chats;       // JSONL: messages, or the user's turns
  std::optional<std::string> examples;  // JSONL: question and answer (GSM8K's form)
  int64_t few_shot = 4;
  bool as_chat = false;
  int64_t tokens = 2048;  // of each of the two sets, about
  int64_t ctx = 1024;     // of a window of text, and where stored bits are counted
  // The space.
  std::string mode = "kivi";  // kivi, per-token, both
  std::vector<int64_t> bits = {8, 4, 2};
  std::vector<int64_t> groups, value_groups, residuals;  // none: the mode's own
  std::optional<std::string> candidates;                 // short forms, instead of all that
  int64_t intact_prefix = 1;
  bool prune = true;
  double eps = 0.05;
  int64_t min_samples = 2;
  // The search.
  std::string by = "layer";         // layer, group
  std::string algorithm = "nsga2";  // nsga2, moead
  std::string cost = "code";        // code, stored
  std::string loss = "kl";          // kl, ppl, task
  std::optional<std::string> task;  // JSONL, for loss task
  int64_t max_tokens = 128;         // of an answer to it
  std::optional<double> min_bits, max_bits, max_loss;
  int64_t trials = 96;
  uint64_t seed = 1;
  int64_t points = 24;
  WeightsOption weights = WeightsOption::kAuto;
  int threads = 0;
  bool json = false;
  bool no_color = false;
};

// `lowkey calibrate`. Words are checked where they are parsed.
struct CalibrateVerbOptions {
  std::string model;            // the 16-bit one
  std::string command;          // as typed, for provenance
  std::string what = "intact";  // intact, prefix
  std::string out;              // a prefix file
  std::string prefix;           // calibrate/prefix_ids.h; empty: the usual one
  std::optional<int64_t> length;
  std::optional<std::string> name;     // for people
  int32_t bits = 16;                   // of each number of the prefix
  std::optional<std::string> student;  // a quantized version; absent: nothing is trained
  // What it is trained on; none of them: conversations that the model has with itself.
  std::vector<std::string> texts;
  std::vector<std::string> chats;
  int64_t samples = 128;
  int64_t heldout = 16;
  int64_t tokens = 512;  // of each sample, at most
  // How.
  std::string loss = "layers";  // layers, kl, answers
  int64_t steps = 64;
  int64_t accumulation = 16;
  double learning_rate = 2e-4;
  double weight_decay = 0.0;
  double clip = 0.3;
  int64_t evaluate_every = 8;
  int64_t patience = 5;
  uint64_t seed = 1;
  std::optional<int64_t> target_memory;  // bytes; absent: a quarter of what there is
  WeightsOption weights = WeightsOption::kAuto;
  int threads = 0;
  std::optional<std::string> json_file, report_file;
  bool no_color = false;
};

struct ProbeVerbOptions {
  std::string model;
  std::optional<std::string> text;  // a file
  bool per_token = false;           // which of KVTuner's modes the candidates are in
  std::vector<int32_t> bits = {8, 4, 2};
  std::vector<std::string> kv;  // candidates by their short forms, instead of mode and bits
  int64_t ctx = 1024;
  int64_t chunks = 2;                  // at most
  int64_t queries = 256;               // per chunk
  int32_t intact = 1;                  // first tokens of a chunk, exact under every candidate
  bool sensitivity = false;            // also KL and perplexity, one layer at a time
  bool pivots = false;                 // instead: which tokens must stay exact
  std::optional<std::string> against;  // with pivots: a quantized version of the model
  int64_t prefix = 32;                 // with against: exact prefixes of up to so many tokens
  WeightsOption weights = WeightsOption::kF32;
  int threads = 0;
  std::optional<std::string> json_file, report_file;
  bool no_color = false;
};

struct PlanOptions {
  std::string model;                  // a file or folder; empty: `arch`
  std::optional<std::string> arch;    // a well-known model by name; "list": all of them
  std::vector<std::string> kv;        // absent: a usual few
  std::optional<int64_t> ctx;         // absent: 4096, or the model's if that is less
  int64_t batch = 1;                  // sequences of ctx tokens each
  std::optional<int64_t> memory;      // bytes that everything should fit into
  std::optional<std::string> front;   // instead of kv: the best of its points for `memory`
  std::optional<double> weight_bits;  // with arch: of each parameter; absent: 16
  bool json = false;
  bool no_color = false;
};

struct InspectOptions {
  std::string path;                  // a model, a safetensors file, a recipe file or short form
  std::vector<std::string> kv;       // absent: a usual few
  std::optional<int64_t> ctx;        // absent: 4096, or the model's if that is less
  std::optional<std::string> model;  // whose shape a recipe is applied to
  bool json = false;
  bool no_color = false;
};

struct ConvertOptions {
  std::string input;                  // a recipe in any form, or another project's file
  std::optional<std::string> output;  // *.json, *.yaml; absent or "-": JSON on standard output
  std::optional<ImportPreset> as;     // how files that say bits only are meant
  std::optional<std::string> model;   // whose shape the recipe must fit
};

struct QuantizeVerbOptions {
  std::string model, output;
  std::string method = "rtn";
  int64_t bits = 4, group = 128;  // group 0: the whole row
  bool f32_params = false;
  int64_t activation_bits = 16;
  std::optional<double> activation_clip;  // of a token's largest; nothing: the method's own
  std::string rounding = "nearest";
  double alpha = 0.5;  // SmoothQuant's
  int64_t epochs = 20;
  double learning_rate = 5e-3;
  std::optional<std::string> text;
  int64_t samples = 128, ctx = 512;
  uint64_t seed = 1;
  bool force = false;
  int threads = 0;
  std::optional<std::string> json_file;
  bool no_color = false;
  std::string command;  // what was typed after the verb
};

int run_verb(const RunOptions& options);
int eval_verb(const EvalOptions& options);
int bench_verb(const BenchOptions& options);
int tune_verb(const TuneVerbOptions& flags);
int calibrate_verb(const CalibrateVerbOptions& options);
int probe_verb(const ProbeVerbOptions& options);
int plan_verb(const PlanOptions& options);
int inspect_verb(const InspectOptions& options);
int convert_verb(const ConvertOptions& options);
int quantize_verb(const QuantizeVerbOptions& flags);

}  // namespace lowkey
