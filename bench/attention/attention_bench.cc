// Decode attention over packed pages from DRAM, against 16-bit pages and against a plain read of
// memory, in one run with the arms interleaved.
//
//   attention_bench [--json FILE] [--threads N,N] [--megabytes N] [--rounds N] [--only TEXT] [--gqa
//   N]
//
// Unit: Mth/s, million (cached tokens x query heads) per second.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/attend.h"
#include "attention/stream_read.h"
#include "cache/kv_cache.h"
#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"
#include "options.h"

namespace lowkey::bench {
namespace {

struct Shape {
  int32_t gqa = 1;
  int32_t head_dim = 128;
  int32_t num_kv_heads = 8;
  int32_t batch = 1;
  int64_t tokens = 8192;
};

struct Arm {
  const char* recipe;
  DecodeDots dots;
};

struct Options {
  std::string json;
  std::vector<int> threads = {1, 0};
  int64_t megabytes = 512;
  int rounds = 12;
  std::string only;    // recipes and paths that contain this, and the 16-bit arm
  int64_t gqa = 0;     // 0: all
  int64_t tokens = 0;  // 0: each table's own
};

// Sequences whose pages are private copies of a few really quantized ones: what is read is what
// attention would read, and filling half a gigabyte takes a second.
class Sequences {
 public:
  Sequences(const Arm& arm, const Shape& shape, int64_t min_bytes)
      : arm_(arm),
        shape_(shape),
        cache_(resolve_recipe(parse_recipe(arm.recipe), {1, shape.num_kv_heads, shape.head_dim})),
        source_(cache_.new_sequence()) {
    const int64_t width = int64_t{shape.num_kv_heads} * shape.head_dim;
    SplitMix64 rng(7);
    auto random = [&](int64_t count) {
      std::vector<float> x(static_cast<size_t>(count));
      for (float& value : x) {
        value = static_cast<float>(rng.uniform() + rng.uniform() + rng.uniform() - 1.5);
      }
      return x;
    };
    const int64_t source_tokens =
        kSourcePages * kPageTokens + cache_.recipe().layers[0].residual_length;
    const std::vector<float> k = random(source_tokens * width), v = random(source_tokens * width);
    source_.append(0, k.data(), v.data(), source_tokens, stage_);
    source_.commit(0, stage_);
    const LayerView& view = source_.append(0, k.data(), v.data(), 1, stage_);

    const int64_t num_pages = shape.tokens / kPageTokens;
    const int64_t page_bytes = cache_.page_layout(0, 0).bytes;
    bytes_per_sequence_ = num_pages * shape.num_kv_heads * page_bytes;
    const int64_t count =
        std::max<int64_t>(shape.batch, (min_bytes + bytes_per_sequence_ - 1) / bytes_per_sequence_);
    for (int64_t s = 0; s < count; ++s) {
      std::vector<std::vector<PageRef>> pages(static_cast<size_t>(shape.num_kv_heads));
      // In memory as the cache has them after a prompt.
      for (int64_t block = 0; block < num_pages; block += kBlockPages) {
        for (size_t head = 0; head < pages.size(); ++head) {
          for (int64_t p = block; p < std::min(num_pages, block + kBlockPages); ++p) {
            PageRef page = pool_.allocate(page_bytes);
            std::memcpy(page.mutable_data(), view.heads[head].pages[p % kSourcePages].data(),
                        static_cast<size_t>(page_bytes));
            pages[head].push_back(std::move(page));
          }
        }
      }
      LayerView copy = view;
      const int64_t shift = (num_pages - kSourcePages) * kPageTokens;
      copy.position += shift;
      for (size_t head = 0; head < pages.size(); ++head) {
        HeadView& h = copy.heads[head];
        // 16-bit sides keep the new token in a page: that one stays the source's.
        for (int64_t p = kSourcePages; p < h.num_pages; ++p) pages[head].push_back(h.pages[p]);
        h.pages = pages[head].data();
        h.num_pages = std::ssize(pages[head]);
        for (SideView* side : {&h.k, &h.v}) {
          for (ExactRows& rows : side->exact) rows.first += shift;
        }
      }
      pages_.push_back(std::move(pages));
      views_.push_back(std::move(copy));
    }
    q_ = random(shape.gqa * width);
    for (float& value : q_) value *= 2;
    out_.resize(q_.size() * static_cast<size_t>(shape.batch));
    items_.resize(static_cast<size_t>(shape.batch));
  }

  // One decode step of `batch` sequences; the next call takes the next ones. Returns seconds.
  double step(ThreadPool& pool, AttendWorkspace& workspace) {
    for (size_t i = 0; i < items_.size(); ++i) {
      items_[i] = {&views_[next_], q_.data(), out_.data() + i * q_.size()};
      next_ = (next_ + 1) % views_.size();
    }
    const double start = now_seconds();
    attend({.items = items_,
            .num_qo_heads = shape_.num_kv_heads * shape_.gqa,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
            .decode_dots = arm_.dots},
           pool, workspace);
    return now_seconds() - start;
  }

  // Largest differences from the specification, on one sequence.
  double output_error() {
    std::vector<float> expected(q_.size());
    const AttendItem item{&views_[0], q_.data(), expected.data()};
    attend_ref({{&item, 1},
                shape_.num_kv_heads * shape_.gqa,
                1.0f / std::sqrt(static_cast<float>(shape_.head_dim))});
    ThreadPool pool(1);
    AttendWorkspace workspace;
    next_ = 0;
    step(pool, workspace);
    double error = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      error += std::pow(static_cast<double>(out_[i]) - expected[i], 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
    return std::sqrt(error / norm);
  }

  const Arm& arm() const { return arm_; }
  int64_t bytes_per_step() const { return bytes_per_sequence_ * shape_.batch; }
  double token_heads_per_step() const {
    return static_cast<double>(views_[0].position + 1) * shape_.num_kv_heads * shape_.gqa *
           shape_.batch;
  }
  const SideRecipe& side(bool value) const {
    const HeadRecipe& head = cache_.recipe().layers[0].heads[0];
    return value ? head.v : head.k;
  }

 private:
  static constexpr int64_t kSourcePages = 4;
  Arm arm_;
  Shape shape_;
  KvCache cache_;
  KvSequence source_;
  AppendStage stage_;
  PagePool pool_;
  std::vector<std::vector<std::vector<PageRef>>> pages_;  // [sequence][head][page]
  std::vector<LayerView> views_;
  std::vector<float> q_, out_;
  std::vector<AttendItem> items_;
  int64_t bytes_per_sequence_ = 0;
  size_t next_ = 0;
};

struct Table {
  Shape shape;
  std::vector<Arm> arms;  // the first is the 16-bit one
};

constexpr size_t kStreamPiece = size_t{32} << 20;

constexpr DecodeDots kTwo = DecodeDots::kTwoPass, kOne = DecodeDots::kOnePass;

std::vector<Table> tables() {
  const std::vector<Arm> all = {{"16", kTwo},
                                {"kivi-8:g32:r32", kTwo},
                                {"kivi-4:g32:r32", kTwo},
                                {"kivi-3:g32:r32", kTwo},
                                {"kivi-2:g32:r32", kTwo},
                                {"kivi-8:g32:r32", kOne},
                                {"kivi-4:g32:r32", kOne},
                                {"kivi-3:g32:r32", kOne},
                                {"kivi-2:g32:r32", kOne},
                                {"4:g32", kTwo},
                                {"kivi-4/2:g32:r32", kTwo},
                                {"kivi-2:g128:r128", kTwo}};
  const std::vector<Arm> some = {{"16", kTwo},
                                 {"kivi-8:g32:r32", kTwo},
                                 {"kivi-4:g32:r32", kTwo},
                                 {"kivi-2:g32:r32", kTwo},
                                 {"kivi-4:g32:r32", kOne},
                                 {"kivi-2:g32:r32", kOne},
                                 {"4:g32", kTwo}};
  return {{{1, 128, 8, 1, 8192}, all},
          {{4, 128, 8, 1, 8192}, some},
          {{8, 128, 4, 1, 8192}, some},
          {{3, 64, 3, 1, 8192}, some},
          {{1, 128, 8, 32, 1024}, some}};
}

std::string group_name(const SideRecipe& side) {
  return side.packed() ? std::to_string(side.group_size) : "-";
}

void run_table(const Table& table, int num_threads, const Options& options,
               std::span<const std::byte> memory, nlohmann::json& rows) {
  ThreadPool pool(num_threads);
  AttendWorkspace workspace;
  const Shape& s = table.shape;
  fmt::print("\nGQA {}, head_dim {}, {} KV heads, {} x {} tokens, {} thread{}, {}\n", s.gqa,
             s.head_dim, s.num_kv_heads, s.batch, s.tokens, pool.num_threads(),
             pool.num_threads() == 1 ? "" : "s", isa_name(active_isa()));
  std::vector<std::unique_ptr<Sequences>> arms;
  for (const Arm& arm : table.arms) {
    const std::string path = arm.dots == kOne ? "one-pass" : "two-pass";
    if (arms.empty() || (path + " " + arm.recipe).find(options.only) != std::string::npos) {
      arms.push_back(std::make_unique<Sequences>(arm, s, options.megabytes << 20));
    }
  }
  std::vector<std::vector<double>> times(arms.size());
  std::vector<double> stream;
  for (int round = 0; round < options.rounds; ++round) {
    // In pieces about as long as a step, so that both see the same quiet moments.
    for (size_t at = 0; at + kStreamPiece <= memory.size(); at += kStreamPiece) {
      stream.push_back(stream_read_seconds(memory.subspan(at, kStreamPiece), pool));
    }
    for (size_t a = 0; a < arms.size(); ++a) {
      double spent = 0;
      while (spent < 0.02) {
        times[a].push_back(arms[a]->step(pool, workspace));
        spent += times[a].back();
      }
    }
  }
  // Medians: the fastest pieces of a plain read come from the host's shared cache.
  const double stream_bytes = static_cast<double>(kStreamPiece) / percentile(stream, 0.5);
  const double f16 = arms[0]->token_heads_per_step() / percentile(times[0], 0.05);
  fmt::print("{:<18} {:<9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>10}\n", "recipe", "path", "Mth/s",
             "median", "GB/s", "stream", "vs f16", "rel error");
  for (size_t a = 0; a < arms.size(); ++a) {
    const Sequences& arm = *arms[a];
    const double seconds = percentile(times[a], 0.05);
    const double rate = arm.token_heads_per_step() / seconds;
    const double median = arm.token_heads_per_step() / percentile(times[a], 0.5);
    const double share =
        static_cast<double>(arm.bytes_per_step()) / percentile(times[a], 0.5) / stream_bytes;
    const double bytes = static_cast<double>(arm.bytes_per_step()) / seconds;
    const bool packed = arm.side(false).packed();
    const char* path = !packed ? "f16" : arm.arm().dots == kOne ? "one-pass" : "two-pass";
    const double error = arms[a]->output_error();
    fmt::print("{:<18} {:<9} {:>8.1f} {:>8.1f} {:>7.1f} {:>7.0f}% {:>7.2f}x {:>10.1e}\n",
               arm.arm().recipe, path, rate / 1e6, median / 1e6, bytes / 1e9, 100 * share,
               rate / f16, error);
    rows.push_back({{"engine", "lowkey"},
                    {"path", path},
                    {"recipe", arm.arm().recipe},
                    {"k_bits", arm.side(false).bits},
                    {"v_bits", arm.side(true).bits},
                    {"group", group_name(arm.side(false))},
                    {"gqa", s.gqa},
                    {"head_dim", s.head_dim},
                    {"batch", s.batch},
                    {"context", s.tokens},
                    {"threads", pool.num_threads()},
                    {"isa", std::string(isa_name(active_isa()))},
                    {"mth_per_s", rate / 1e6},
                    {"median_mth_per_s", median / 1e6},
                    {"gb_per_s", bytes / 1e9},
                    {"share_of_stream", share},
                    {"stream_gb_per_s", stream_bytes / 1e9},
                    {"ratio_to_f16", rate / f16},
                    {"relative_error", error}});
  }
  fmt::print("stream read {:.1f} GB/s (median)\n", stream_bytes / 1e9);
  std::fflush(stdout);
}

Options parse_options(int argc, char** argv) {
  Options options;
  for_each_option(argc, argv, [&](std::string_view name, std::string_view value) {
    const auto whole = [&] { return number<int64_t>(name, value); };
    if (name == "--json") {
      options.json = value;
    } else if (name == "--only") {
      options.only = value;
    } else if (name == "--gqa") {
      options.gqa = whole();
    } else if (name == "--tokens") {
      options.tokens = whole();
    } else if (name == "--megabytes") {
      options.megabytes = whole();
    } else if (name == "--rounds") {
      options.rounds = static_cast<int>(std::max<int64_t>(1, whole()));
    } else if (name == "--threads") {
      options.threads.clear();
      for (int64_t count : numbers(name, value)) options.threads.push_back(static_cast<int>(count));
    } else {
      fail(ErrorCode::kInvalidArgument,
           "{}: not one of --json --threads --tokens --megabytes --rounds --only --gqa", name);
    }
  });
  return options;
}

void run(const Options& options) {
  PagePool stream_pool;
  // One large page: memory as the cache gets it, huge pages included.
  const int64_t stream_bytes = std::max<int64_t>(64, options.megabytes / 2) << 20;
  const PageRef stream = stream_pool.allocate(stream_bytes);
  nlohmann::json rows = nlohmann::json::array();
  for (int threads : options.threads) {
    for (Table& table : tables()) {
      if (options.gqa != 0 && options.gqa != table.shape.gqa) continue;
      if (options.tokens != 0) table.shape.tokens = options.tokens;
      run_table(table, threads, options, {stream.data(), static_cast<size_t>(stream_bytes)}, rows);
    }
  }
  if (!options.json.empty()) write_file_atomically(options.json, rows.dump(1) + "\n");
}

}  // namespace
}  // namespace lowkey::bench

int main(int argc, char** argv) {
  using namespace lowkey::bench;
  return main_of("attention_bench", [&] { run(parse_options(argc, argv)); });
}
