#pragma once
// What an Error says, of what should throw one.
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "core/error.h"

namespace lowkey::test {

// With `code`, whose kind is checked too. Where nothing is thrown, a text that no error has.
template <typename Work>
std::string message_of(const Work& work, std::optional<ErrorCode> code = std::nullopt) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code.value_or(error.code())) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace lowkey::test
