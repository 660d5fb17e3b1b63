#include "planned_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "architectures.h"
#include "core/error.h"
#include "memory_plan.h"
#include "recipe/front.h"
#include "tensor_summary.h"
#include "units.h"

namespace lowkey {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kUsualContext = 4096;
constexpr double kUsualWeightBits = 16;

PlannedModel planned_architecture(const PlanOptions& options) {
  const auto arch = find_architecture(*options.arch);
  if (!arch) {
    fail(ErrorCode::kInvalidArgument, "--arch: no '{}' here: lowkey plan --arch list shows all",
         *options.arch);
  }
  const double bits = options.weight_bits.value_or(kUsualWeightBits);
  PlannedModel model;
  model.source = "public configuration";
  model.config = arch->config();
  const int64_t parameters = parameter_count(model.config);
  model.weight_bytes = std::llround(static_cast<double>(parameters) * bits / 8);
  model.weights_text = fmt::format("{} ({} parameters of {:g} bits)",
                                   human_bytes(static_cast<uint64_t>(model.weight_bytes)),
                                   with_separators(parameters), bits);
  return model;
}

PlannedModel planned_file(const PlanOptions& options) {
  const ModelFile file = ModelFile::open(options.model);
  PlannedModel model;
  model.source = file.path().string();
  model.file_name = front_model_name(file.path());
  model.config = file.config();
  if (model.config.name.empty()) model.config.name = model.file_name;
  model.weight_bytes = static_cast<int64_t>(file.weight_bytes());
  model.weights_text = fmt::format("{} (as in the file)", human_bytes(file.weight_bytes()));
  return model;
}

}  // namespace

PlannedModel planned_model(const PlanOptions& options) {
  return options.arch ? planned_architecture(options) : planned_file(options);
}

int64_t planned_context(const PlannedModel& model, const PlanOptions& options) {
  const int64_t most = model.config.max_context;
  return options.ctx.value_or(most > 0 ? std::min(most, kUsualContext) : kUsualContext);
}

std::string planned_model_text(const PlannedModel& model, const Terminal& terminal) {
  const ModelConfig& config = model.config;
  const Facts facts = {{"layers", fmt::format("{}", config.num_layers)},
                       {"heads", fmt::format("{} query, {} KV, head_dim {}", config.num_qo_heads,
                                             config.num_kv_heads, config.head_dim)},
                       {"context", with_separators(config.max_context)},
                       {"weights", model.weights_text}};
  return facts_text(fmt::format("{} ({})", config.name, model.source), facts, terminal);
}

std::string planned_total_text(const PlannedModel& model, int64_t ctx) {
  std::string out = fmt::format(
      "total: weights, KV cache as allocated (whole pages, exact windows), and workspace: an\n"
      "estimate of activations, logits and attention's partial results. Prompts need {} more\n"
      "where they run in bf16 (AVX512_BF16, weights not f32 or file), else libtorch's buffers.\n",
      human_bytes(static_cast<uint64_t>(prompt_weights_bytes(model.config))));
  if (model.config.max_context > 0 && ctx > model.config.max_context) {
    out += fmt::format("{} tokens are beyond the model's context.\n", with_separators(ctx));
  }
  return out;
}

Json planned_model_json(const PlannedModel& model, const PlanOptions& options, int64_t ctx) {
  const ModelConfig& config = model.config;
  return {{"kind", "plan"},
          {"model", config.name},
          {"source", model.source},
          {"num_layers", config.num_layers},
          {"num_qo_heads", config.num_qo_heads},
          {"num_kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"max_context", config.max_context},
          {"ctx", ctx},
          {"batch", options.batch},
          {"memory_bytes", options.memory ? Json(*options.memory) : Json()},
          {"prompt_weights_bytes", prompt_weights_bytes(config)}};
}

}  // namespace lowkey
