#include "eval/mt_bench.h"

#include <fmt/format.h>

#include "core/error.h"
#include "engine/session.h"

namespace lowkey {
namespace {

constexpr int32_t kTransformersTopK = 50;

GenerateOptions generate_options(const MtBenchQuestion& question, const MtBenchOptions& options,
                                 size_t turn) {
  GenerateOptions generate;
  generate.max_tokens = options.max_tokens;
  SamplingOptions& sampling = generate.sampling;
  sampling.temperature =
      options.sampling == MtBenchSampling::kGreedy ? 0 : fastchat_temperature(question.category);
  sampling.top_k = kTransformersTopK;
  sampling.top_p = 1;
  sampling.min_p = 0;
  // Each turn has a stream of its own: what was asked before does not show.
  SplitMix64 mix(options.seed ^ (static_cast<uint64_t>(question.id) * kMaxMtBenchTurns + turn));
  sampling.seed = mix.next();
  return generate;
}

std::string trim(const std::string& text) {
  constexpr const char* kBlanks = " \t\n\v\f\r";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

std::vector<std::string> answer_mt_bench(Engine& engine, const CacheSpec& spec,
                                         const MtBenchQuestion& question,
                                         const MtBenchOptions& options,
                                         const ProgressFn& progress) {
  Session session(engine, spec);
  std::vector<ChatMessage> messages;
  std::vector<std::string> answers;
  for (size_t turn = 0; turn < question.turns.size(); ++turn) {
    messages.push_back({"user", question.turns[turn]});
    const std::vector<int32_t> prompt = engine.encode_chat(messages);
    if (std::ssize(prompt) + spec.prefix_tokens() >= engine.max_context()) {
      fail(ErrorCode::kInvalidArgument,
           "question {}, turn {}: {} tokens so far, and the context holds {}: fewer --max-tokens",
           question.id, turn + 1, prompt.size(), engine.max_context());
    }
    const GenerateResult result =
        session.generate(prompt, generate_options(question, options, turn), {}, progress);
    answers.push_back(trim(result.text));
    messages.push_back({"assistant", answers.back()});
  }
  return answers;
}

}  // namespace lowkey
