#include "src/experiment/report/sha256.h"

#include <gtest/gtest.h>

#include <string>

namespace guestmm::sha256_test {
namespace {

// The examples of FIPS 180-4, and what sha256sum prints.
TEST(Sha256Test, IsTheStandards) {
  EXPECT_EQ(Sha256::Of(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256::Of("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      Sha256::Of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256::Of(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, DoesNotDependOnHowTheBytesCome) {
  const std::string bytes(200, 'x');
  for (size_t first = 0; first <= bytes.size(); ++first) {
    Sha256 hash;
    hash.Add(bytes.substr(0, first));
    hash.Add(bytes.substr(first));
    EXPECT_EQ(hash.Finish(), Sha256::Of(bytes)) << first;
  }
}

}  // namespace
}  // namespace guestmm::sha256_test
