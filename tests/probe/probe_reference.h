#pragma once
// The probe's numbers once more: straight from their definitions, in double precision, on what a
// model computed for a text. Uses no code of the cache, of its kernels or of the probe.
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "probe/probe.h"
#include "support/tiny_model.h"

namespace lowkey::test {

using Rows = std::vector<std::vector<double>>;  // [token][channel]

struct ReferenceErrors {
  double e_k = 0, e_v = 0, e_a = 0, e_o = 0, bias_k = 0, bias_score = 0, bias_o = 0;
  std::vector<HeadErrors> heads;
};
struct ReferenceAxis {
  double error = 0, e_o = 0;
};
struct ReferenceNoise {
  double predicted = 0, measured = 0;
};
struct ReferenceDepth {
  std::vector<double> relative_error, independent;
};

class ProbeReferenceModel {
 public:
  ProbeReferenceModel(Engine& engine, int32_t intact_prefix, int64_t max_queries);

  void add(const Document& document);
  ReferenceErrors candidate(size_t layer, const LayerRecipe& recipe) const;
  ReferenceAxis axis(size_t layer, Side side, QuantAxis axis, int32_t bits) const;
  ReferenceNoise noise(size_t layer, const LayerRecipe& recipe) const;
  AttentionShape shape(size_t layer, size_t head) const;
  // {position, head} of the first text whose attention moves most.
  std::pair<int64_t, size_t> most_shifted(size_t layer, const LayerRecipe& recipe) const;
  // Of a document that was added as the only one.
  ReferenceDepth depth(const Document& document, const std::string& recipe,
                       const LayerRecipe& layer, const TinyModel& model) const;

 private:
  struct Layer {
    std::vector<Rows> q, k, v;  // [head]; k and v rounded to f16
  };
  struct Text {
    std::vector<int64_t> queries;
    std::vector<Layer> layers;
    std::vector<Rows> residuals;  // [layer + 1]
  };
  // A stored form of one side of one head: what is packed, its step, and how much of it each
  // position sees.
  struct Form {
    Rows x, step;
    int64_t first = 0, last = 0;  // packed by the end
    std::vector<int64_t> seen;    // per position
  };
  struct Looked {
    std::vector<double> scores, p, out;
  };

  Text capture(const Document& document, const std::string& recipe) const;
  Form form(const Rows& x, const SideRecipe& side, const LayerRecipe& layer) const;
  Form axis_form(const Rows& x, QuantAxis axis, int32_t bits) const;
  Looked look(const Text& text, size_t layer, size_t head, int64_t position, const Form* k,
              const Form* v) const;
  size_t kv_of(size_t head) const { return head / group_; }

  Engine& engine_;
  int64_t prefix_, max_queries_;
  size_t heads_, group_, dim_;
  std::vector<Text> texts_;
};

}  // namespace lowkey::test
