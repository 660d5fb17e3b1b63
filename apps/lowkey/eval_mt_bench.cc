#include "eval_mt_bench.h"

#include <fmt/format.h>

#include <cctype>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "eval/mt_bench.h"
#include "eval/task_file.h"
#include "model_options.h"
#include "progress_bar.h"

namespace lowkey {
namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// What a file's name may be on every system: FastChat names files by it.
std::string id_of(const std::string& text) {
  std::string id;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-';
    id += plain ? c : '_';
  }
  return id;
}

// A file of lines that is gone on with: each line is there whole, or is none.
class AnswerFile {
 public:
  // `whole`: bytes of the lines that are whole. What follows is dropped.
  AnswerFile(std::filesystem::path path, size_t whole) : path_(std::move(path)) {
    std::error_code error;
    if (std::filesystem::exists(path_, error)) std::filesystem::resize_file(path_, whole, error);
    if (!error) out_.open(path_, std::ios::binary | std::ios::app);
    if (error || !out_) fail(ErrorCode::kIo, "{}: cannot be written", path_.string());
  }

  void add(const std::string& line) {
    out_ << line << std::flush;
    if (!out_) fail(ErrorCode::kIo, "{}: cannot be written: is the disk full?", path_.string());
  }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

}  // namespace

int eval_mt_bench(const EvalOptions& options) {
  // What is wrong is said at once, not after loading.
  const std::string kv = options.kv.empty() ? "16" : options.kv[0];
  if (options.kv.size() > 1) {
    fail(ErrorCode::kInvalidArgument,
         "--mt-bench answers with one --kv: a file of answers is one model's to the judge");
  }
  parse_recipe(kv);
  const std::filesystem::path source = *options.mt_bench;
  std::vector<MtBenchQuestion> questions =
      parse_mt_bench(read_file(source, kMaxTaskBytes), source.filename().string());
  if (options.limit && *options.limit < std::ssize(questions)) {
    questions.resize(static_cast<size_t>(*options.limit));
  }

  ProgressBar bar;
  Engine engine(options.model, {weight_storage(options.weights), options.threads, 0},
                bar.callback());
  const CacheSpec spec = recipe_for(kv, engine);
  const std::filesystem::path model = engine.file().path();
  const std::string name =
      (std::filesystem::is_directory(model) ? model.filename() : model.stem()).string();
  MtBenchOptions answering;
  answering.max_tokens = options.max_tokens.value_or(answering.max_tokens);
  answering.sampling =
      options.fastchat_sampling ? MtBenchSampling::kFastChat : MtBenchSampling::kGreedy;
  answering.seed = options.seed;
  const MtBenchSettings settings = {options.model_id.value_or(id_of(name + "-" + kv)),
                                    model.filename().string(),
                                    kv,
                                    std::string(weight_storage_name(engine.weight_storage())),
                                    options.fastchat_sampling ? "fastchat" : "greedy",
                                    options.seed,
                                    answering.max_tokens};
  const std::filesystem::path path = *options.output;
  MtBenchAnswered answered;
  if (std::filesystem::exists(path)) {
    answered =
        parse_mt_bench_answers(read_file(path, kMaxTaskBytes), path.filename().string(), settings);
  }
  AnswerFile file(path, answered.bytes);
  int64_t made = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    const MtBenchQuestion& question = questions[i];
    if (answered.ids.count(question.id) > 0) continue;
    // The tokens of two answers are not known before they are there: questions count.
    const ProgressFn progress = [&](std::string_view, int64_t, int64_t) {
      bar.update("answering", static_cast<int64_t>(i), std::ssize(questions));
    };
    const std::vector<std::string> answers =
        answer_mt_bench(engine, spec, question, answering, progress);
    file.add(mt_bench_answer_line(question, answers, settings, seconds_since_1970()));
    ++made;
  }
  bar.clear();
  fmt::print("{}: {} answer{} of {}, {} of them new; {}\n", path.string(), questions.size(),
             questions.size() == 1 ? "" : "s", settings.model_id, made, describe_engine(engine));
  return 0;
}

}  // namespace lowkey
