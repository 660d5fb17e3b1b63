// The C++ half of tools/check_recipe_schema.py. `recipe_samples recipe N` (or `front N`) prints N
// random ones, one JSON a line; without N it reads such lines and answers "ok" or the error, a line
// each.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "core/error.h"
#include "recipe/random_front.h"
#include "recipe/random_recipe.h"

namespace {

void print_line(std::string json) {
  std::replace(json.begin(), json.end(), '\n', ' ');
  std::puts(json.c_str());
}

void print_samples(bool fronts, int count) {
  lowkey::RandomRecipe recipes(3);
  lowkey::RandomFront random_fronts(3);
  for (int i = 0; i < count; ++i) {
    if (fronts) {
      print_line(lowkey::front_to_json(random_fronts.front()));
      continue;
    }
    lowkey::KvRecipe recipe = recipes.recipe();
    if (i % 2) recipe.name = "sample";
    if (i % 3) recipe.provenance = recipes.provenance();
    print_line(lowkey::recipe_to_json(recipe));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string format = argc > 1 ? argv[1] : "";
  if (format != "recipe" && format != "front") return 2;
  const bool fronts = format == "front";
  if (argc == 3) {
    print_samples(fronts, std::atoi(argv[2]));
    return 0;
  }
  for (std::string line; std::getline(std::cin, line);) {
    try {
      if (fronts) {
        lowkey::front_from_json(line, "line");
      } else {
        lowkey::recipe_from_json(line, "line");
      }
      std::puts("ok");
    } catch (const lowkey::Error& error) {
      std::puts(error.what());
    }
  }
}
