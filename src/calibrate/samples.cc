#include "calibrate/samples.h"

#include <algorithm>

#include "core/error.h"

namespace lowkey::calibrate {

Sample make_sample(const Document& document, std::span<const int32_t> prefix, LossKind loss,
                   int64_t tokens) {
  const auto [differs, end] =
      std::mismatch(prefix.begin(), prefix.end(), document.tokens.begin(), document.tokens.end());
  const bool has_prefix = differs == prefix.end();
  const int64_t skipped = has_prefix ? std::ssize(prefix) : 0;
  const int64_t last = std::min(std::ssize(document.tokens), skipped + tokens);
  Sample sample;
  sample.name = document.name;
  sample.tokens.assign(document.tokens.begin() + skipped, document.tokens.begin() + last);
  const bool predicts = loss != LossKind::kLayers;
  for (const TokenRange& range : document.scored) {
    for (int64_t token = range.first; token < std::min(range.last, last); ++token) {
      const int64_t row = token - skipped - (predicts ? 1 : 0);
      if (row < 0) continue;  // it, or what predicts it, lies in the prefix
      sample.rows.push_back(row);
      if (predicts) sample.next.push_back(document.tokens[static_cast<size_t>(token)]);
    }
  }
  return sample;
}

Samples make_samples(std::span<const Document> documents, std::span<const int32_t> prefix,
                     LossKind loss, int64_t tokens, int64_t train, int64_t heldout) {
  const int64_t every = std::max<int64_t>(2, (train + heldout) / std::max<int64_t>(1, heldout));
  std::vector<Sample> usable;
  for (const Document& document : documents) {
    if (std::ssize(usable) == train + heldout) break;
    Sample sample = make_sample(document, prefix, loss, tokens);
    if (!sample.rows.empty()) usable.push_back(std::move(sample));
  }
  if (usable.size() < 2) {
    fail(ErrorCode::kInvalidArgument,
         "{} of {} documents {} of use: two are the least, one of them held out", usable.size(),
         documents.size(), usable.size() == 1 ? "is" : "are");
  }
  Samples samples;
  for (size_t i = 0; i < usable.size(); ++i) {
    const auto number = static_cast<int64_t>(i) + 1;
    const bool last_chance = number == std::ssize(usable) && samples.heldout.empty();
    const bool held = number % every == 0 || last_chance;
    (held ? samples.heldout : samples.train).push_back(std::move(usable[i]));
  }
  return samples;
}

}  // namespace lowkey::calibrate
