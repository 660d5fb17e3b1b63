#include "core/sha256.h"

#include <gtest/gtest.h>

namespace lowkey {
namespace {

// FIPS 180-4's examples and NIST's long message.
TEST(Sha256, NistVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
                       "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// Every position of the padding: Python's hashlib over the digests of 0 to 200 letters.
TEST(Sha256, EveryLengthAroundABlock) {
  Sha256 all;
  for (size_t length = 0; length <= 200; ++length) {
    Sha256 one;
    one.update(std::string(length, 'a'));
    const Sha256::Digest digest = one.finish();
    all.update(std::as_bytes(std::span(digest)));
  }
  EXPECT_EQ(to_hex(all.finish()),
            "1be2d7d291484baf4c78d463a65b40a26c255b1946e5205eac8edad606a76fdd");
}

TEST(Sha256, PiecesGiveTheSameAsTheWhole) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 7);
  const std::string whole = sha256_hex(text);
  for (size_t piece : {1, 3, 63, 64, 65, 127, 128, 999}) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += piece)
      hash.update(std::string_view(text).substr(at, piece));
    EXPECT_EQ(to_hex(hash.finish()), whole) << piece;
  }
}

}  // namespace
}  // namespace lowkey
