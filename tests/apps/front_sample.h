#pragma once
// A front for a model with head_dim 16, where KIVI's groups do not fit.
#include <string>

#include "recipe/front.h"

namespace lowkey::test {

inline FrontPoint front_point(const char* recipe, double code_bits, double kl, double ppl_percent) {
  FrontPoint point;
  point.recipe = recipe;
  point.code_bits = code_bits;
  point.stored_bits = code_bits + 2;
  point.bytes_per_token = 16 * point.stored_bits;
  point.kl = kl / 2;
  point.ppl = point.ppl_heldout = 20;
  point.ppl_delta_percent = ppl_percent / 2;
  point.kl_heldout = kl;
  point.ppl_delta_percent_heldout = ppl_percent;
  return point;
}

// For `model` with two layers.
inline Front front_for(const std::string& model) {
  Front front;
  front.model = model;
  front.command = "lowkey tune " + model;
  front.num_layers = 2;
  front.ctx = 128;
  front.points = {front_point("2", 2, 0.18, 21), front_point("0=4/2,*=2", 2.5, 0.04, 4.1),
                  front_point("0=4,*=4/2", 3.5, 0.009, 0.4), front_point("8", 8, 0.001, 0.05)};
  front.references = {front_point("4", 4, 0.0042, 0.61)};
  return front;
}

}  // namespace lowkey::test
