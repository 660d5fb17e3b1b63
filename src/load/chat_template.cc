#include "load/chat_template.h"

#include <utility>

#include "load/jinja/interpreter.h"
#include "load/jinja/parser.h"

namespace lowkey {

using jinja::Builtin;
using jinja::Text;
using jinja::Value;

struct ChatTemplate::Impl {
  jinja::Template parsed;
  std::string bos_token, eos_token;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string bos_token, std::string eos_token)
    : impl_(std::make_unique<const Impl>(
          Impl{jinja::parse(source), std::move(bos_token), std::move(eos_token)})) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::vector<PromptPiece> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                              bool add_generation_prompt,
                                              std::optional<std::chrono::sys_seconds> now) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    list.push_back(Value::dict({{Value("role"), Value(Text(message.role, false))},
                                {Value("content"), Value(Text(message.content, false))}}));
  }
  jinja::Variables globals = {
      {"messages", Value::list(std::move(list))},
      {"add_generation_prompt", Value(add_generation_prompt)},
      {"tools", Value()},  // none: what Hugging Face passes where there are none
      {"documents", Value()},
  };
  for (const auto& [name, builtin] :
       {std::pair{"range", Builtin::kRange}, std::pair{"namespace", Builtin::kNamespace},
        std::pair{"dict", Builtin::kDict}, std::pair{"raise_exception", Builtin::kRaiseException},
        std::pair{"strftime_now", Builtin::kStrftimeNow}}) {
    globals.emplace_back(name, Value(jinja::Callable{.builtin = builtin}));
  }
  if (!impl_->bos_token.empty()) globals.emplace_back("bos_token", Value(impl_->bos_token));
  if (!impl_->eos_token.empty()) globals.emplace_back("eos_token", Value(impl_->eos_token));

  jinja::Budget budget;
  jinja::Context context{budget, now};
  const Text printed = jinja::render(impl_->parsed, globals, context);
  std::vector<PromptPiece> pieces;
  printed.for_each_run([&](std::string_view run, bool trusted) {
    pieces.push_back({std::string(run), trusted});
  });
  return pieces;
}

}  // namespace lowkey
