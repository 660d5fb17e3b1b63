#include "tune/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/files.h"
#include "core/sha256.h"
#include "engine/session.h"
#include "eval/scorer.h"
#include "load/json.h"

namespace lowkey::tune {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
constexpr int64_t kMaxAnswerTokens = 192;  // of a file's turns

[[noreturn]] void bad_line(const std::string& where, std::string_view what) {
  fail(ErrorCode::kCorruptFile,
       "{}: {}; a line is {{\"messages\": [{{\"role\": \"user\", \"content\": \"...\"}}, ...]}} or "
       "{{\"turns\": [\"...\", ...]}}",
       where, what);
}

std::vector<std::string> read_turns(const nlohmann::json& turns, const std::string& where) {
  if (!turns.is_array() || turns.empty()) bad_line(where, "'turns' is not a list of texts");
  std::vector<std::string> texts;
  for (const nlohmann::json& turn : turns) {
    if (!turn.is_string()) bad_line(where, "'turns' is not a list of texts");
    texts.push_back(turn.get<std::string>());
  }
  return texts;
}

std::vector<ChatMessage> read_messages(const nlohmann::json& list, const std::string& where) {
  if (!list.is_array() || list.empty()) bad_line(where, "'messages' is not a list");
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& item : list) {
    if (!item.is_object()) bad_line(where, "a message is no object");
    const JsonFields fields(item, where, "messages.");
    messages.push_back({fields.need(fields.get_string("role"), "role"),
                        fields.need(fields.get_string("content"), "content")});
  }
  return messages;
}

// Without a template: text as base models have seen it.
std::string plain_chat(const std::vector<ChatMessage>& messages, bool answer_next) {
  std::string text;
  for (const ChatMessage& message : messages) {
    text +=
        fmt::format("{}: {}\n\n", message.role == "user" ? "Question" : "Answer", message.content);
  }
  if (answer_next) text += "Answer:";
  return text;
}

std::vector<int32_t> encode(const Engine& engine, const std::vector<ChatMessage>& messages,
                            bool answer_next) {
  if (messages.size() == 1 && messages[0].role == kPlainText) {
    return engine.encode_text(messages[0].content);
  }
  // No calibration depends on the day it is run: templates that print a date get this one.
  constexpr std::chrono::sys_days kDate = std::chrono::year{2025} / 1 / 1;
  return engine.has_chat_template() ? engine.encode_chat(messages, answer_next, kDate)
                                    : engine.encode_text(plain_chat(messages, answer_next));
}

}  // namespace

ChatFile read_chats(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxFileBytes);
  ChatFile chats;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", path.string(), number);
    check_json_limits(line, {}, where);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) bad_line(where, "not a JSON object");
    const std::string name = fmt::format("{} {}", path.filename().string(), number);
    if (json.contains("messages")) {
      chats.conversations.push_back({name, read_messages(json["messages"], where)});
    } else if (json.contains("turns")) {
      chats.scripts.push_back({.name = name,
                               .kind = ScriptKind::kDialogue,
                               .user_turns = read_turns(json["turns"], where),
                               .max_answer_tokens = kMaxAnswerTokens});
    } else {
      bad_line(where, "neither 'messages' nor 'turns'");
    }
  }
  if (chats.conversations.empty() && chats.scripts.empty()) {
    fail(ErrorCode::kCorruptFile, "{}: holds no conversation", path.string());
  }
  return chats;
}

Conversation answer(Engine& engine, const Script& script, int64_t max_tokens, uint64_t seed,
                    const ProgressFn& progress) {
  Conversation conversation{script.name, {}};
  Session session(engine, resolve_recipe(parse_recipe("16"), engine.kv_shape()));
  GenerateOptions options;
  options.sampling = {.temperature = 0.7, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .seed = seed};
  options.max_tokens = script.max_answer_tokens;
  if (!engine.has_chat_template()) options.stop = {"\nQuestion:", "\n\n\n"};
  if (script.kind == ScriptKind::kProse) {
    // As varied as the model's own distribution: chats are tamer than text.
    options.sampling = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0.02, .seed = seed};
    report(progress, "writing " + script.name, 0, 1);
    const std::string& opening = script.user_turns[0];
    const GenerateResult result = session.generate(engine.encode_text(opening), options, {});
    conversation.messages = {{kPlainText, opening + result.text}};
    return conversation;
  }
  const auto turns = std::ssize(script.user_turns);
  for (int64_t turn = 0; turn < turns; ++turn) {
    report(progress, "answering " + script.name, turn, turns);
    std::vector<ChatMessage> messages = conversation.messages;
    messages.push_back({"user", script.user_turns[static_cast<size_t>(turn)]});
    const std::vector<int32_t> prompt = encode(engine, messages, true);
    if (std::ssize(prompt) + script.max_answer_tokens >
        std::min(max_tokens, engine.max_context())) {
      break;
    }
    GenerateResult result = session.generate(prompt, options, {});
    conversation.messages = std::move(messages);
    conversation.messages.push_back({"assistant", std::move(result.text)});
  }
  return conversation;
}

Document chat_document(const Engine& engine, const Conversation& conversation, int64_t max_tokens) {
  Document document;
  document.name = conversation.name;
  document.tokens = encode(engine, conversation.messages, false);
  const int64_t most = std::min(max_tokens, engine.max_context());
  if (std::ssize(document.tokens) > most) document.tokens.resize(static_cast<size_t>(most));
  int64_t first = 1;
  const auto answer = std::find_if(conversation.messages.begin(), conversation.messages.end(),
                                   [](const ChatMessage& m) { return m.role == "assistant"; });
  if (answer != conversation.messages.end()) {
    const std::vector<ChatMessage> before(conversation.messages.begin(), answer);
    const std::vector<int32_t> prompt = encode(engine, before, true);
    // Where there is no template, the answer's first letters may join the prompt's last token.
    const auto [differs, end] =
        std::mismatch(prompt.begin(), prompt.end(), document.tokens.begin(), document.tokens.end());
    first = std::max<int64_t>(1, differs - prompt.begin());
  }
  const auto last = std::ssize(document.tokens);
  if (first < last) document.scored = {{first, last}};
  return document;
}

CalibrationSets text_sets(const Engine& engine, const std::string& text, int64_t ctx,
                          int64_t max_windows, std::string_view name) {
  const std::vector<int32_t> tokens =
      engine.tokenizer().encode(text, SpecialTokens::kIgnore, /*add_special=*/false);
  std::vector<Document> documents = window_documents(tokens, ctx, max_windows, name);
  if (documents.size() < 2) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} tokens make {} window{} of {}, and two are needed, one of them held out: use a "
         "longer text or a smaller --ctx",
         name, tokens.size(), documents.size(), documents.size() == 1 ? "" : "s", ctx);
  }
  const TokenizerSpec& spec = engine.tokenizer().spec();
  CalibrationSets sets;
  // The first half calibrates: neighbouring windows may be of one article.
  const size_t half = (documents.size() + 1) / 2;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (spec.add_bos && spec.bos >= 0) documents[i].tokens[0] = spec.bos;
    (i < half ? sets.calibration : sets.heldout).push_back(std::move(documents[i]));
  }
  return sets;
}

bool SetFiller::full() const {
  return std::min(counts_[0], counts_[1]) >= tokens_;
}

void SetFiller::add(Document document) {
  if (document.scored.empty()) return;
  const bool heldout = added_++ % (2 * kScriptCycle) >= kScriptCycle;
  if (counts_[heldout] >= tokens_) return;
  counts_[heldout] += document.num_scored();
  (heldout ? sets_.heldout : sets_.calibration).push_back(std::move(document));
}

CalibrationSets SetFiller::take() {
  if (sets_.calibration.empty() || sets_.heldout.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "{} documents are too few: the first {} calibrate, those after them are held out", added_,
         kScriptCycle);
  }
  return std::move(sets_);
}

std::string documents_sha256(const CalibrationSets& sets) {
  Sha256 sha;
  for (const auto* documents : {&sets.calibration, &sets.heldout}) {
    sha.update(fmt::format("{} documents\n", documents->size()));
    for (const Document& document : *documents) {
      sha.update(fmt::format("{} tokens\n", document.tokens.size()));
      sha.update(std::as_bytes(std::span(document.tokens)));
      for (const TokenRange& range : document.scored) {
        sha.update(fmt::format("{}-{}\n", range.first, range.last));
      }
    }
  }
  return to_hex(sha.finish());
}

}  // namespace lowkey::tune
