// Values: tools/make_calibrate_golden.py, by torch.optim.AdamW and clip_grad_norm_.
#include "calibrate/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "support/paths.h"

namespace lowkey::calibrate {
namespace {

at::Tensor tensor_of(const nlohmann::json& numbers) {
  at::Tensor tensor = at::empty({std::ssize(numbers)}, at::kFloat);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.data_ptr<float>()[i] = numbers[static_cast<size_t>(i)].get<float>();
  }
  return tensor;
}

TEST(AdamW, StepsAreTorchs) {
  const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream(test::golden("calibrate.json")))["adamw"];
  AdamWOptions options;
  options.learning_rate = golden["learning_rate"];
  options.weight_decay = golden["weight_decay"];
  std::vector<at::Tensor> tensors{tensor_of(golden["start"][0]), tensor_of(golden["start"][1])};
  AdamWState state = AdamWState::zeros(tensors);
  for (const nlohmann::json& step : golden["steps"]) {
    std::vector<at::Tensor> gradients{tensor_of(step["gradients"][0]),
                                      tensor_of(step["gradients"][1])};
    EXPECT_NEAR(clip_norm(gradients, golden["clip"]), step["norm"].get<double>(), 1e-6);
    adamw_step(options, state, tensors, gradients);
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_LE((tensors[i] - tensor_of(step["tensors"][i])).abs().max().item<double>(), 1e-6);
    }
  }
  EXPECT_EQ(state.steps, std::ssize(golden["steps"]));
}

TEST(AdamW, SmallGradientsAreNotClipped) {
  std::vector<at::Tensor> gradients{at::full({4}, 0.1f)};
  EXPECT_NEAR(clip_norm(gradients, 0.3), 0.2, 1e-7);
  EXPECT_FLOAT_EQ(gradients[0][0].item<float>(), 0.1f);
  EXPECT_NEAR(clip_norm(gradients, 0.1), 0.2, 1e-7);
  EXPECT_NEAR(gradients[0].norm().item<double>(), 0.1, 1e-6);
  clip_norm(gradients, 0);
  EXPECT_NEAR(gradients[0].norm().item<double>(), 0.1, 1e-6);
}

}  // namespace
}  // namespace lowkey::calibrate
