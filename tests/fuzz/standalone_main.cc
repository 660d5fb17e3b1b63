// Runs a fuzz target without libFuzzer, so that ./dev test exercises it with the compiler at hand:
// every file of the corpus, then for some seconds mutations of them. It sees no coverage; finding
// deep bugs is ./dev fuzz's work, which runs the same targets with libFuzzer. An input that crashes
// is left in a file.
//
//   NAME_fuzz SECONDS [FILE_OR_FOLDER...]
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Only there in sanitized builds, where it is called before the process ends.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

namespace fs = std::filesystem;
using Input = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr size_t kMaxInput = size_t{1} << 16;

// Read by the handlers below, which may run at any instruction of the target.
Input current;                // NOLINT(cert-err58-cpp)
std::string crash_file_name;  // NOLINT(cert-err58-cpp)

void save_current() {
  const int file = open(crash_file_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  const ssize_t written = write(file, current.data(), current.size());
  close(file);
  std::fprintf(stderr, "the input (%zd bytes) is in %s\n", written, crash_file_name.c_str());
}

void on_signal(int number) {
  save_current();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void save_input_on_crash(const fs::path& program) {
  crash_file_name = "crash-" + program.filename().string();
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(save_current);
  // Sanitizers catch the memory faults; an abort (LOWKEY_CHECK, an uncaught exception) is ours to
  // catch.
  std::signal(SIGABRT, on_signal);
  if (__sanitizer_set_death_callback == nullptr) {
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, on_signal);
  }
}

void run(Input input) {
  current = std::move(input);
  // An exact-size copy on the heap: one byte read past the end is a sanitizer report.
  const Input exact(current.begin(), current.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

Input read_input(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<Input> read_corpus(int argc, char** argv) {
  std::vector<fs::path> files;
  for (int i = 2; i < argc; ++i) {
    if (fs::is_directory(argv[i])) {
      for (const auto& entry : fs::recursive_directory_iterator(argv[i])) {
        if (entry.is_regular_file()) files.push_back(entry.path());
      }
    } else {
      files.emplace_back(argv[i]);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> corpus;
  for (const fs::path& file : files) corpus.push_back(read_input(file));
  return corpus;
}

size_t below(Random& random, size_t bound) {
  return bound == 0 ? 0 : std::uniform_int_distribution<size_t>(0, bound - 1)(random);
}

// Lengths and offsets are what parsers trip over: integers at the edges of their types,
// little-endian.
void overwrite_integer(Input& input, Random& random) {
  constexpr std::array<uint64_t, 10> kEdges = {0,
                                               1,
                                               0x7F,
                                               0xFF,
                                               0xFFFF,
                                               0x7FFFFFFF,
                                               0xFFFFFFFF,
                                               0x7FFFFFFFFFFFFFFF,
                                               0xFFFFFFFFFFFFFFFF,
                                               0x100000000};
  const uint64_t value = kEdges[below(random, kEdges.size())];
  const size_t width = size_t{1} << below(random, 4);
  if (input.size() < width) return;
  const size_t at = below(random, input.size() - width + 1);
  for (size_t i = 0; i < width; ++i) input[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

void copy_part(Input& input, const Input& from, Random& random) {
  if (from.empty()) return;
  const size_t first = below(random, from.size());
  const size_t count = 1 + below(random, std::min<size_t>(from.size() - first, 64));
  const Input part(from.begin() + static_cast<ptrdiff_t>(first),
                   from.begin() + static_cast<ptrdiff_t>(first + count));
  const size_t at = below(random, input.size() + 1);
  input.insert(input.begin() + static_cast<ptrdiff_t>(at), part.begin(), part.end());
}

void erase_part(Input& input, Random& random) {
  if (input.empty()) return;
  const size_t first = below(random, input.size());
  const size_t count = 1 + below(random, std::min<size_t>(input.size() - first, 64));
  input.erase(input.begin() + static_cast<ptrdiff_t>(first),
              input.begin() + static_cast<ptrdiff_t>(first + count));
}

Input mutate(const std::vector<Input>& corpus, Random& random) {
  Input input = corpus[below(random, corpus.size())];
  for (size_t changes = 1 + below(random, 6); changes > 0; --changes) {
    switch (below(random, 7)) {
      case 0:
        if (!input.empty()) input[below(random, input.size())] ^= 1U << below(random, 8);
        break;
      case 1:
        if (!input.empty()) input[below(random, input.size())] = static_cast<uint8_t>(random());
        break;
      case 2: overwrite_integer(input, random); break;
      case 3: erase_part(input, random); break;
      case 4: copy_part(input, corpus[below(random, corpus.size())], random); break;
      case 5: input.resize(below(random, input.size() + 1)); break;
      default: copy_part(input, {static_cast<uint8_t>(random())}, random); break;
    }
  }
  if (input.size() > kMaxInput) input.resize(kMaxInput);
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s SECONDS [FILE_OR_FOLDER...]\n", argv[0]);
    return 2;
  }
  save_input_on_crash(argv[0]);
  std::vector<Input> corpus = read_corpus(argc, argv);
  for (const Input& input : corpus) run(input);
  const size_t seeds = corpus.size();
  corpus.push_back({});

  Random random(1);  // the same mutations every time, as far as the seconds reach
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atol(argv[1]));
  int64_t runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) run(mutate(corpus, random));
  std::printf("%zu seeds and %ld mutations of them\n", seeds, static_cast<long>(runs));
  return 0;
}
