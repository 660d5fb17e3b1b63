// The C++ half of tools/check_recipe_schema.py. `recipe_samples N` prints N random recipes, one
// JSON a line; without arguments it reads such lines and answers "ok" or the error, a line each.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "core/error.h"
#include "recipe/random_recipe.h"

int main(int argc, char** argv) {
  if (argc == 2) {
    lowkey::RandomRecipe random(3);
    for (int i = 0; i < std::atoi(argv[1]); ++i) {
      lowkey::KvRecipe recipe = random.recipe();
      if (i % 2) recipe.name = "sample";
      if (i % 3) recipe.provenance = random.provenance();
      std::string json = lowkey::recipe_to_json(recipe);
      std::replace(json.begin(), json.end(), '\n', ' ');
      std::puts(json.c_str());
    }
    return 0;
  }
  for (std::string line; std::getline(std::cin, line);) {
    try {
      lowkey::recipe_from_json(line, "line");
      std::puts("ok");
    } catch (const lowkey::Error& error) {
      std::puts(error.what());
    }
  }
}
