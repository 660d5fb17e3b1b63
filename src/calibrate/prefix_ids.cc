#include "calibrate/prefix_ids.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/files.h"

namespace lowkey::calibrate {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{16} << 20;

std::vector<int32_t> bos_ids(const Engine& engine) {
  const int32_t bos = engine.tokenizer().spec().bos;
  if (bos < 0) {
    fail(ErrorCode::kInvalidArgument,
         "--prefix bos: {} has no beginning-of-text token; use chat, text:TEXT or ids:1,2,...",
         engine.file().path().string());
  }
  return {bos};
}

// What conversations have in common whatever the user says, and whatever the day.
std::vector<int32_t> template_ids(const Engine& engine, const std::optional<std::string>& system) {
  using std::chrono::sys_days;
  const sys_days kDays[] = {std::chrono::year{2025} / 1 / 1, std::chrono::year{2031} / 12 / 28};
  std::optional<std::vector<int32_t>> common;
  for (const sys_days day : kDays) {
    for (const char* text : {"A", "7", "(x)"}) {
      std::vector<ChatMessage> messages;
      if (system) messages.push_back({"system", *system});
      messages.push_back({"user", text});
      const std::vector<int32_t> ids = engine.encode_chat(messages, true, day);
      if (!common) {
        common = ids;
        continue;
      }
      const auto differs = std::mismatch(common->begin(), common->end(), ids.begin(), ids.end());
      common->erase(differs.first, common->end());
    }
  }
  if (common->empty()) {
    fail(ErrorCode::kInvalidArgument,
         "--prefix: the chat template of {} begins with the user's text: nothing to keep",
         engine.file().path().string());
  }
  return *common;
}

std::vector<int32_t> listed_ids(std::string_view list) {
  std::vector<int32_t> ids;
  while (true) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(list.data(), list.data() + list.size(), id);
    const bool more = end != list.data() + list.size();
    if (error != std::errc() || id < 0 || (more && *end != ',')) {
      fail(ErrorCode::kInvalidArgument, "--prefix ids:{}: not token ids with commas between them",
           list);
    }
    ids.push_back(id);
    if (!more) return ids;
    list.remove_prefix(static_cast<size_t>(end - list.data()) + 1);
  }
}

std::optional<std::string> after(const std::string& name, std::string_view head) {
  if (!name.starts_with(head)) return std::nullopt;
  return name.substr(head.size());
}

}  // namespace

std::vector<int32_t> prefix_ids(const Engine& engine, const std::string& name,
                                std::optional<int64_t> length) {
  std::vector<int32_t> ids;
  if (name == "bos") {
    ids = bos_ids(engine);
  } else if (name == "chat") {
    ids = template_ids(engine, std::nullopt);
  } else if (const auto system = after(name, "system:")) {
    ids = template_ids(engine, *system);
  } else if (const auto text = after(name, "text:")) {
    const auto file = after(*text, "@");
    ids = engine.encode_text(file ? read_file(*file, kMaxTextBytes) : *text);
  } else if (const auto list = after(name, "ids:")) {
    ids = listed_ids(*list);
  } else {
    fail(ErrorCode::kInvalidArgument,
         "--prefix {}: not bos, chat, system:TEXT, text:TEXT, text:@FILE or ids:1,2,...", name);
  }
  if (length) {
    if (std::ssize(ids) < *length) {
      fail(ErrorCode::kInvalidArgument,
           "--length {}: --prefix {} has {} tokens to start from; a longer text: --prefix "
           "text:@FILE",
           *length, name.substr(0, 40), ids.size());
    }
    ids.resize(static_cast<size_t>(*length));
  }
  const int32_t vocabulary = engine.file().config().vocab_size;
  for (const int32_t id : ids) {
    if (id < vocabulary) continue;
    fail(ErrorCode::kInvalidArgument, "--prefix {}: token id {}: the vocabulary has 0 to {}", name,
         id, vocabulary - 1);
  }
  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "--prefix {}: no tokens", name);
  if (std::ssize(ids) >= engine.max_context()) {
    fail(ErrorCode::kInvalidArgument, "--prefix: {} tokens leave nothing of a context of {}",
         ids.size(), engine.max_context());
  }
  return ids;
}

const char* usual_prefix(const Engine& engine) {
  return engine.has_chat_template() ? "chat" : "bos";
}

}  // namespace lowkey::calibrate
