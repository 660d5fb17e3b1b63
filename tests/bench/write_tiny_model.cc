// write_tiny_model FILE: the tests' tiny model as a GGUF, for benches to run on.
// write_tiny_model FOLDER FAMILY: the tiny model of a family as a Hugging Face folder.
#include <cstdio>

#include "support/family_model.h"
#include "support/tiny_model.h"

int main(int argc, char** argv) {
  if (argc == 2) {
    lowkey::test::TinyModel({.seed = 5, .head_dim = 32, .max_context = 512}).write_gguf(argv[1]);
    return 0;
  }
  if (argc == 3) {
    lowkey::test::FamilyModel(argv[2]).write_hugging_face(argv[1], "transformers 5");
    return 0;
  }
  std::fputs("write_tiny_model: FILE | FOLDER FAMILY\n", stderr);
  return 2;
}
