#include "calibrate/prefix_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "core/files.h"
#include "support/paths.h"
#include "support/tiny_model.h"

namespace lowkey::calibrate {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PrefixIds : public ::testing::Test {
 protected:
  PrefixIds() {
    test::TinyModel().write_hugging_face(folder_ / "model");
    engine_ = std::make_unique<Engine>(folder_ / "model", EngineOptions{.threads = 1}, nullptr);
  }
  std::vector<int32_t> ids(const std::string& name) const { return prefix_ids(*engine_, name); }
  std::string refusal(const std::string& name) const {
    try {
      ids(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "taken";
  }

  test::TempDir folder_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(PrefixIds, AreThoseOfTheTemplateUpToTheUsersText) {
  const std::vector<int32_t> chat = ids("chat");
  const Tokenizer& tokenizer = engine_->tokenizer();
  EXPECT_EQ(tokenizer.decode(chat, true), "<|im_start|>user\n");
  EXPECT_EQ(tokenizer.decode(ids("system:be kind"), true),
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n");
  const std::vector<int32_t> prompt = engine_->encode_chat({{"user", "what is it?"}});
  EXPECT_TRUE(std::equal(chat.begin(), chat.end(), prompt.begin()));
  EXPECT_STREQ(usual_prefix(*engine_), "chat");
}

TEST_F(PrefixIds, OfOtherKinds) {
  EXPECT_THAT(ids("bos"), ElementsAre(engine_->tokenizer().spec().bos));
  EXPECT_THAT(ids("ids:3,1,4"), ElementsAre(3, 1, 4));
  EXPECT_EQ(ids("text:in the"), engine_->encode_text("in the"));
  write_file_atomically(folder_ / "t.txt", "in the");
  EXPECT_EQ(ids("text:@" + (folder_ / "t.txt").string()), ids("text:in the"));
}

TEST_F(PrefixIds, MayBeTheFirstOfThem) {
  EXPECT_THAT(prefix_ids(*engine_, "ids:3,1,4", 2), ElementsAre(3, 1));
  EXPECT_EQ(prefix_ids(*engine_, "text:" + std::string(2000, 'x'), 5).size(), 5u);
  EXPECT_THROW(prefix_ids(*engine_, "ids:3,1,4", 4), Error);
}

TEST_F(PrefixIds, WhatIsNoneIsRefused) {
  EXPECT_THAT(refusal("bos2"), HasSubstr("not bos, chat"));
  EXPECT_THAT(refusal("ids:1,,2"), HasSubstr("not token ids"));
  EXPECT_THAT(refusal("ids:"), HasSubstr("not token ids"));
  EXPECT_THAT(refusal("ids:1,-2"), HasSubstr("not token ids"));
  EXPECT_THAT(refusal("ids:1;2"), HasSubstr("not token ids"));
  EXPECT_THAT(refusal("ids:320"), HasSubstr("the vocabulary has 0 to 319"));
  EXPECT_THAT(refusal("text:"), HasSubstr("no tokens"));
  EXPECT_THAT(refusal("text:" + std::string(2000, 'x')), HasSubstr("a context of 512"));
}

}  // namespace
}  // namespace lowkey::calibrate
