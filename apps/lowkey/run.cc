// lowkey run: one answer, or a chat, from a quantized cache.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "core/error.h"
#include "core/files.h"
#include "engine/prefix_file.h"
#include "engine/session.h"
#include "interrupt.h"
#include "model_options.h"
#include "progress_bar.h"
#include "recipe/bytes.h"
#include "recipe/front.h"
#include "terminal.h"
#include "units.h"
#include "verbs.h"

namespace lowkey {
namespace {

constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells expect

SamplingOptions sampling_options(const SamplingFlags& flags, const GenerationDefaults& file) {
  SamplingOptions options;
  options.temperature = flags.temperature.value_or(file.temperature.value_or(options.temperature));
  options.top_k = flags.top_k.value_or(file.top_k.value_or(options.top_k));
  options.top_p = flags.top_p.value_or(file.top_p.value_or(options.top_p));
  options.min_p = flags.min_p.value_or(file.min_p.value_or(options.min_p));
  options.seed = flags.seed.value_or(std::random_device()());
  return options;
}

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

// What the cache takes, and what it would take in 16 bits.
struct CacheFigures {
  int64_t bytes = 0;
  int64_t bytes_16bit = 0;
  double stored_bits = 0;
};

class Runner {
 public:
  // choice: the point of a front that options.kv names, if it does.
  Runner(const RunOptions& options, std::optional<FrontChoice> choice)
      : options_(options),
        choice_(std::move(choice)),
        out_(detect_terminal(stdout, options.no_color)),
        err_(detect_terminal(stderr, options.no_color)),
        engine_(options.model,
                {weight_storage(options.weights), options.threads, options.ctx.value_or(0)},
                bar_.callback()),
        spec_(bound_recipe()),
        session_(engine_, spec_) {
    bar_.clear();
    generate_.sampling = sampling_options(options.sampling, engine_.file().generation());
    generate_.max_tokens = options.max_tokens.value_or(0);
    generate_.stop = options.stop;
    generate_.cancel = &interrupt_.flag();
    if (options.verbose) {
      note(fmt::format("{}; cache {}; temperature {}, top-k {}, top-p {}, min-p {}, seed {}",
                       describe_engine(engine_), cache_text(), generate_.sampling.temperature,
                       generate_.sampling.top_k, generate_.sampling.top_p, generate_.sampling.min_p,
                       generate_.sampling.seed));
    }
  }

  int once(const std::string& prompt) {
    std::vector<int32_t> tokens;
    if (options_.raw) {
      tokens = engine_.encode_text(prompt);
    } else {
      messages_ = opening();
      messages_.push_back({"user", prompt});
      tokens = engine_.encode_chat(messages_);
    }
    const GenerateResult result = answer(tokens);
    if (options_.json) {
      print_json(result);
    } else {
      note(closing_line(result));
    }
    return result.reason == StopReason::kCancelled ? kExitInterrupted : 0;
  }

  int chat() {
    if (options_.raw) {
      fail(ErrorCode::kInvalidArgument, "--raw needs a prompt: -p TEXT or -f FILE");
    }
    const bool person = isatty(STDIN_FILENO) != 0;
    if (person) {
      note(fmt::format("{} on a {} cache. Ctrl-C stops an answer, Ctrl-D ends; /help for more.",
                       engine_.file().path().filename().string(), options_.kv));
    }
    messages_ = opening();
    for (;;) {
      interrupt_.reset();
      if (person) say(paint(out_, Ink::kCyan, "> "));
      const ReadResult line = read_line();
      if (line == ReadResult::kInterrupted) {
        say("\n");
        note("(Ctrl-D ends)");
        continue;
      }
      if (line == ReadResult::kEnd) {
        if (person) say("\n");
        return 0;
      }
      if (line_.empty()) continue;
      if (line_ == "/bye" || line_ == "/exit" || line_ == "/quit") return 0;
      if (line_ == "/help") {
        note("/reset  forget the conversation     /bye  end     Ctrl-C  stop an answer");
        continue;
      }
      if (line_ == "/reset") {
        messages_ = opening();
        note("(forgotten)");
        continue;
      }
      turn();
    }
  }

 private:
  enum class ReadResult : uint8_t { kLine, kEnd, kInterrupted };

  CacheSpec bound_recipe() {
    if (!choice_) return recipe_for(options_.kv, engine_);
    bar_.clear();
    const std::string name = front_model_name(engine_.file().path());
    if (const auto other = other_model(choice_->front, name, engine_.file().config().num_layers)) {
      note(fmt::format("lowkey: warning: {}: {}", choice_->file, *other));
    }
    CacheSpec spec = cache_spec(choice_->recipe(), engine_.file());
    spec.recipe.label = options_.kv;
    return spec;
  }

  std::string prefix_name() const { return parse_recipe(options_.kv).calibration->file; }

  // Once, and again where prompts come to begin otherwise.
  void say_prefix(const GenerateResult& result) {
    if (result.prefix_use == said_prefix_) return;
    said_prefix_ = result.prefix_use;
    const bool matched = result.prefix_use == PrefixUse::kMatched;
    note(fmt::format("prefix: {} token{} from {}, {}", result.prefix_tokens,
                     result.prefix_tokens == 1 ? "" : "s", prefix_name(),
                     matched ? "matched: the prompt begins with them"
                             : "prepended: the prompt does not begin with them"));
  }

  // The recipe as it was asked for and, of a front, what its point was measured to lose.
  std::string cache_text() const {
    if (!choice_) return options_.kv;
    const FrontPoint& point = choice_->point();
    return fmt::format("{} ({:.2f} code bits; held-out KL {:.4f}, perplexity {:+.2f}%)",
                       options_.kv, point.code_bits, point.kl_heldout,
                       point.ppl_delta_percent_heldout);
  }

  std::vector<ChatMessage> opening() const {
    if (!options_.system) return {};
    return {{"system", *options_.system}};
  }

  // One turn of a chat. A turn that cannot be taken is taken back, and the chat goes on.
  void turn() {
    messages_.push_back({"user", line_});
    try {
      const GenerateResult result = answer(engine_.encode_chat(messages_));
      messages_.push_back({"assistant", result.text});
      note(closing_line(result));
      if (result.reason == StopReason::kContextFull) {
        note("(the context is full: /reset begins anew, --ctx makes it longer)");
      }
    } catch (const Error& error) {
      messages_.pop_back();
      note(fmt::format("lowkey: error: {}", error.what()));
    }
  }

  GenerateResult answer(const std::vector<int32_t>& tokens) {
    const auto on_text = [&](std::string_view text) {
      bar_.clear();
      if (!options_.json) say(text);
    };
    const GenerateResult result = session_.generate(tokens, generate_, on_text, bar_.callback());
    bar_.clear();
    if (!options_.json) {
      say("\n");
      say_prefix(result);
    }
    return result;
  }

  CacheFigures cache_figures() const {
    const int64_t length = session_.length();
    const ResolvedRecipe full = resolve_recipe(parse_recipe("16"), engine_.kv_shape());
    return {bytes_at(spec_.recipe, length).total(), bytes_at(full, length).total(),
            stored_bits(spec_.recipe, length)};
  }

  std::string closing_line(const GenerateResult& result) const {
    const CacheFigures cache = cache_figures();
    std::string line =
        fmt::format("[{} tokens, {:.1f} tok/s; prompt {} tokens", result.tokens.size(),
                    rate(result.decoded_tokens, result.decode_seconds), result.prompt_tokens);
    if (result.reused_tokens > 0) line += fmt::format(" ({} in cache)", result.reused_tokens);
    line += fmt::format(", {:.2f} s; KV cache {}", result.prefill_seconds,
                        human_bytes(static_cast<uint64_t>(cache.bytes)));
    if (cache.bytes != cache.bytes_16bit) {
      line += fmt::format(", {:.1f}x smaller than 16-bit",
                          rate(cache.bytes_16bit, static_cast<double>(cache.bytes)));
    }
    if (choice_) {
      line +=
          fmt::format("; {}{:.2f} bits of {}",
                      options_.quality ? fmt::format("{}: ", quality_name(*options_.quality)) : "",
                      choice_->point().code_bits, choice_->file);
    }
    if (result.reason == StopReason::kCancelled) line += "; stopped";
    return line + "]";
  }

  void print_json(const GenerateResult& result) const {
    const CacheFigures cache = cache_figures();
    nlohmann::ordered_json json = {
        {"text", result.text},
        {"tokens", result.tokens},
        {"stop_reason", stop_reason_name(result.reason)},
        {"kv", options_.kv},
        {"prompt_tokens", result.prompt_tokens},
        {"generated_tokens", result.tokens.size()},
        {"prefill_seconds", result.prefill_seconds},
        {"decode_seconds", result.decode_seconds},
        {"tokens_per_second", rate(result.decoded_tokens, result.decode_seconds)},
        {"kv_bytes", cache.bytes},
        {"kv_bytes_16bit", cache.bytes_16bit},
        {"stored_bits", cache.stored_bits},
        {"seed", generate_.sampling.seed},
    };
    if (result.prefix_use != PrefixUse::kNone) {
      json["prefix"] = {
          {"file", prefix_name()},
          {"tokens", result.prefix_tokens},
          {"use", result.prefix_use == PrefixUse::kMatched ? "matched" : "prepended"}};
    }
    if (choice_) {
      const FrontPoint& point = choice_->point();
      json["front"] = {{"file", choice_->file},
                       {"point", choice_->index},
                       {"recipe", point.recipe},
                       {"code_bits", point.code_bits},
                       {"kl_heldout", point.kl_heldout},
                       {"ppl_delta_percent_heldout", point.ppl_delta_percent_heldout}};
    }
    fmt::print("{}\n", json.dump(2));
  }

  ReadResult read_line() {
    line_.clear();
    for (;;) {
      if (const size_t end = input_.find('\n'); end != std::string::npos) {
        line_ = input_.substr(0, end);
        input_.erase(0, end + 1);
        if (line_.ends_with('\r')) line_.pop_back();
        return ReadResult::kLine;
      }
      char buffer[4096];
      const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) return ReadResult::kInterrupted;
      if (n <= 0) {
        line_ = std::exchange(input_, "");
        return line_.empty() ? ReadResult::kEnd : ReadResult::kLine;
      }
      input_.append(buffer, static_cast<size_t>(n));
    }
  }

  void say(std::string_view text) const {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  void note(const std::string& text) const {
    std::fflush(stdout);
    fmt::print(stderr, "{}\n", paint(err_, Ink::kDim, text));
  }

  const RunOptions& options_;
  std::optional<FrontChoice> choice_;
  const Terminal out_, err_;
  ProgressBar bar_;
  InterruptGuard interrupt_;
  Engine engine_;
  CacheSpec spec_;
  Session session_;
  PrefixUse said_prefix_ = PrefixUse::kNone;
  GenerateOptions generate_;
  std::vector<ChatMessage> messages_;
  std::string input_, line_;
};

}  // namespace

int run_verb(const RunOptions& asked) {
  RunOptions options = asked;
  if (options.quality) {
    LOWKEY_CHECK(options.front.has_value(), "the command line sees to it");
    options.kv =
        fmt::format("{}@{}", front_path(*options.front).string(), quality_name(*options.quality));
  }
  std::optional<std::string> prompt = options.prompt;
  if (options.prompt_file) {
    prompt = read_file(*options.prompt_file == "-" ? "/dev/stdin" : *options.prompt_file);
  }
  // A wrong recipe is said at once, not after loading.
  std::optional<FrontChoice> choice;
  if (const auto reference = parse_front_reference(options.kv)) {
    choice = choose_point(*reference);
  } else {
    checked_recipe(options.kv);
  }
  Runner runner(options, std::move(choice));
  return prompt ? runner.once(*prompt) : runner.chat();
}

}  // namespace lowkey
