// Which point of a front is meant: by bits, by a promise, or by name on the command line.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "recipe/front.h"

namespace lowkey {
namespace {

struct Promise {
  Quality quality;
  std::string_view name;
  std::string_view words;
  double ppl_delta_percent;
  double kl;
};
constexpr double kAnyKl = std::numeric_limits<double>::infinity();
constexpr Promise kPromises[] = {
    {Quality::kLossless, "lossless", "perplexity within 0.5%, KL at most 0.01", 0.5, 0.01},
    {Quality::kBalanced, "balanced", "perplexity within 2%", 2, kAnyKl},
    {Quality::kCompact, "compact", "perplexity within 5%", 5, kAnyKl},
};

const Promise& promise_of(Quality quality) {
  for (const Promise& promise : kPromises) {
    if (promise.quality == quality) return promise;
  }
  LOWKEY_CHECK(false, "quality {}", static_cast<int>(quality));
}

constexpr std::string_view kJsonAt = ".json@";
constexpr std::string_view kPrefixAt = "+i@";
constexpr int kPrintedDecimals = 2;
constexpr int kMostDecimals = 17;

// The bits someone means who wrote them rounded: half a unit of the last decimal is allowed for,
// so that what a table prints finds its point. Nothing if it is not a number.
std::optional<double> written_bits(std::string_view text) {
  double bits = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), bits, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (!std::isfinite(bits) || bits <= 0) return std::nullopt;
  const size_t dot = text.find('.');
  const size_t decimals = dot == text.npos ? 0 : text.size() - dot - 1;
  const int counted = std::clamp(static_cast<int>(std::min<size_t>(decimals, kMostDecimals)),
                                 kPrintedDecimals, kMostDecimals);
  return bits + 0.5 * std::pow(10.0, -counted);
}

// What every point of a front misses the promise by: the one that comes nearest, in words.
std::string nearest_to(const Front& front) {
  const auto loss = [](const FrontPoint& point) { return point.ppl_delta_percent_heldout; };
  const FrontPoint& best = *std::min_element(
      front.points.begin(), front.points.end(),
      [&](const FrontPoint& a, const FrontPoint& b) { return loss(a) < loss(b); });
  return fmt::format("the best, {:.2f} bits, has perplexity {:+.2f}%, KL {:.4f}", best.code_bits,
                     loss(best), best.kl_heldout);
}

const FrontPoint& point_named(const Front& front, const FrontReference& reference) {
  const auto& [file, which, prefix] = reference;
  if (const auto quality = parse_quality(which)) {
    if (const FrontPoint* point = point_for(front, *quality)) return *point;
    fail(ErrorCode::kInvalidArgument, "{}@{}: no point keeps {} on held-out text: {}", file, which,
         quality_promise(*quality), nearest_to(front));
  }
  const auto bits = written_bits(which);
  if (!bits) {
    fail(ErrorCode::kInvalidArgument,
         "{}@{}: '{}' names no point: the most code bits, such as {}@3.25, or lossless, balanced "
         "or compact",
         file, which, which, file);
  }
  if (const FrontPoint* point = point_within(front, *bits)) return *point;
  const FrontPoint& smallest = front.points.front();
  fail(ErrorCode::kInvalidArgument, "{}@{}: no point has so few code bits: the smallest is {}",
       file, which, reference_to(file, front, smallest));
}

}  // namespace

std::optional<Quality> parse_quality(std::string_view name) {
  for (const Promise& promise : kPromises) {
    if (promise.name == name) return promise.quality;
  }
  return std::nullopt;
}

std::string_view quality_name(Quality quality) {
  return promise_of(quality).name;
}

std::string_view quality_promise(Quality quality) {
  return promise_of(quality).words;
}

const FrontPoint* point_for(const Front& front, Quality quality) {
  const Promise& promise = promise_of(quality);
  const FrontPoint* fewest = nullptr;
  for (const FrontPoint& point : front.points) {
    if (point.ppl_delta_percent_heldout > promise.ppl_delta_percent) continue;
    if (point.kl_heldout > promise.kl) continue;
    if (!fewest || point.stored_bits < fewest->stored_bits) fewest = &point;
  }
  return fewest;
}

const FrontPoint* least_loss(const Front& front, const std::vector<const FrontPoint*>& points) {
  const bool task = std::all_of(front.points.begin(), front.points.end(),
                                [](const FrontPoint& point) { return point.task_accuracy; });
  const auto loses_less = [&](const FrontPoint* a, const FrontPoint* b) {
    if (task && *a->task_accuracy != *b->task_accuracy) {
      return *a->task_accuracy > *b->task_accuracy;
    }
    if (a->kl_heldout != b->kl_heldout) return a->kl_heldout < b->kl_heldout;
    return a->stored_bits < b->stored_bits;
  };
  const auto best = std::min_element(points.begin(), points.end(), loses_less);
  return best == points.end() ? nullptr : *best;
}

const FrontPoint* point_within(const Front& front, double bits) {
  std::vector<const FrontPoint*> most;
  for (const FrontPoint& point : front.points) {
    if (point.code_bits > bits) continue;
    if (!most.empty() && most.front()->code_bits != point.code_bits) most.clear();  // ascending
    most.push_back(&point);
  }
  return least_loss(front, most);
}

namespace {

std::optional<FrontReference> reference_without_prefix(std::string_view text) {
  const size_t at = text.rfind(kJsonAt);
  if (at == text.npos || at == 0 || text.starts_with('{')) return std::nullopt;
  const size_t name_end = at + kJsonAt.size() - 1;
  const std::string_view which = text.substr(name_end + 1);
  if (which.find('/') != which.npos) return std::nullopt;  // a folder's name ends so
  return FrontReference{std::string(text.substr(0, name_end)), std::string(which), {}};
}

}  // namespace

std::optional<FrontReference> parse_front_reference(std::string_view text) {
  const size_t end = text.find(kPrefixAt);
  auto reference = reference_without_prefix(text.substr(0, end));
  if (!reference || end == text.npos) return reference_without_prefix(text);
  reference->prefix = text.substr(end + kPrefixAt.size());
  if (reference->prefix.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: +i@ wants the intact prefix's file: {}+i@prefix.safetensors", text,
         text.substr(0, end));
  }
  return reference;
}

FrontChoice choose_point(const FrontReference& reference) {
  FrontChoice choice{.file = reference.file,
                     .front = read_front(reference.file),
                     .index = 0,
                     .prefix = reference.prefix};
  const FrontPoint& point = point_named(choice.front, reference);
  choice.index = static_cast<size_t>(&point - choice.front.points.data());
  return choice;
}

KvRecipe FrontChoice::recipe() const {
  KvRecipe recipe = recipe_of(point(), front);
  const std::string reference =
      reference_to(std::filesystem::path(file).filename().string(), front, point());
  // "front@3.25": without the ending, as a recipe file's name is.
  recipe.name = reference.substr(0, reference.rfind(kJsonAt)) +
                reference.substr(reference.rfind(kJsonAt) + kJsonAt.size() - 1);
  if (!prefix.empty()) {
    recipe.calibration = CalibrationRef{.file = prefix, .sha256 = {}};
    recipe.name += fmt::format("+i@{}", std::filesystem::path(prefix).filename().string());
  }
  return recipe;
}

std::string reference_to(const std::string& file, const Front& front, const FrontPoint& point) {
  std::string bits;
  for (int decimals = kPrintedDecimals; decimals <= kMostDecimals; ++decimals) {
    bits = fmt::format("{:.{}f}", point.code_bits, decimals);
    const FrontPoint* found = point_within(front, written_bits(bits).value_or(0));
    if (found && found->code_bits == point.code_bits) break;
  }
  return fmt::format("{}@{}", file, bits);
}

}  // namespace lowkey
