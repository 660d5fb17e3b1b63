// write_tiny_model FILE: the tests' tiny model as a GGUF, for benches to run on.
#include <cstdio>

#include "support/tiny_model.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("write_tiny_model: FILE\n", stderr);
    return 2;
  }
  lowkey::test::TinyModel({.seed = 5, .head_dim = 32, .max_context = 512}).write_gguf(argv[1]);
}
