#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/cpu.h"
#include "core/error.h"
#include "model/kv_shape.h"
#include "model/simulation.h"

namespace lowkey {

int64_t available_memory() {
  int64_t memory = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  int64_t limit = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit) memory = std::min(memory, limit);
  return memory;
}

namespace {

int64_t float_bytes(const ModelFile& file) {
  int64_t bytes = 0;
  for (const std::string& name : file.tensor_names()) {
    const TensorView tensor = file.tensor(name);
    bytes += tensor.rows() * tensor.cols() * static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

}  // namespace

WeightStorage best_weight_storage(const ModelFile& file, int64_t memory) {
  if (static_cast<int64_t>(file.weight_bytes()) > memory / 4) return WeightStorage::kFile;
  if (is_simulated(file.config()) && float_bytes(file) <= memory / 4) return WeightStorage::kF32;
  for (const std::string& name : file.tensor_names()) {
    if (dtype_block_elements(file.tensor(name).dtype) > 1) return WeightStorage::kPacked;
  }
  return cpu_features().avx512_bf16 ? WeightStorage::kBF16 : WeightStorage::kF32;
}

Engine::Engine(const std::filesystem::path& model, const EngineOptions& options,
               const ProgressFn& progress)
    : file_(ModelFile::open(model)),
      tokenizer_(file_.tokenizer()),
      weights_(options.weights.value_or(best_weight_storage(file_))),
      pool_(options.threads) {
  const ModelConfig& config = file_.config();
  max_context_ = options.max_context == 0 ? config.max_context : options.max_context;
  if (max_context_ > config.max_context) {
    fail(ErrorCode::kInvalidArgument, "context of {} tokens: {} was made for at most {}",
         max_context_, config.name.empty() ? "this model" : config.name, config.max_context);
  }
  if (!file_.chat_template().empty()) {
    auto token_text = [&](int32_t id) {
      return id >= 0 ? file_.tokenizer().tokens[static_cast<size_t>(id)] : std::string();
    };
    template_ =
        std::make_unique<ChatTemplate>(file_.chat_template(), token_text(file_.tokenizer().bos),
                                       token_text(file_.tokenizer().eos));
  }
  model_ = std::make_unique<Model>(Model::load(file_, weights_, pool_, progress));
}

Engine::~Engine() = default;

KvShape Engine::kv_shape() const {
  return lowkey::kv_shape(file_.config());
}

std::vector<int32_t> Engine::encode_chat(const std::vector<ChatMessage>& messages, bool answer_next,
                                         std::optional<std::chrono::sys_seconds> now) const {
  if (!template_) {
    fail(ErrorCode::kUnsupported,
         "{}: the file has no chat template; use --raw to continue plain text",
         file_.path().string());
  }
  return tokenizer_.encode(template_->render(messages, answer_next, now), false);
}

std::vector<int32_t> Engine::encode_text(std::string_view text) const {
  return tokenizer_.encode(text, SpecialTokens::kParse, true);
}

void prefill(Model& model, KvSequence& sequence, std::span<const int32_t> tokens, RowsWanted wanted,
             float* hidden, const ProgressFn& progress, std::string_view what,
             const ForwardOptions& options) {
  const auto total = static_cast<int64_t>(tokens.size());
  // `prefill: exact` lets the prompt attend to itself unquantized, which only one step can do.
  const bool exact = sequence.cache().recipe().prefill == PrefillMode::kExact;
  const int64_t chunk = exact ? total : kPrefillChunk;
  for (int64_t done = 0; done < total; done += chunk) {
    report(progress, what, done, total);
    const int64_t count = std::min(chunk, total - done);
    const bool last_chunk = done + count == total;
    StepItem item{&sequence, tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
                  wanted};
    if (wanted == RowsWanted::kLast && !last_chunk) item.wanted = RowsWanted::kNone;
    const int64_t offset = done * model.config().hidden_size;
    float* out = wanted == RowsWanted::kAll ? hidden + offset : hidden;
    ForwardOptions part = options;
    if (part.residual) part.residual += offset;
    model.forward({&item, 1}, item.wanted == RowsWanted::kNone ? nullptr : out, part);
  }
  report(progress, what, total, total);
}

}  // namespace lowkey
