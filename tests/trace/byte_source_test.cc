#include "src/trace/byte_source.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>

#include "tests/trace/trace_testing.h"

namespace guestmm::trace::byte_source_test {
namespace {

// What comes out of the bytes, up to an error, in pieces of `size`.
std::string InPieces(const std::string& bytes, size_t size) {
  const auto source = BytesOf(bytes, "t").value();
  std::string piece(size, '\0');
  std::string all;
  while (true) {
    const auto got = source->Read(piece.data(), size);
    if (!got.ok() || *got == 0) return all;
    all.append(piece, 0, *got);
  }
}

// Far more comes out of a few bytes than is read at once. Where they are cut
// off, the decompressor has taken all of them and still holds output.
TEST(ByteSourceTest, WhatADecompressorHoldsIsRead) {
  const std::string text(size_t{256} << 10, 'x');
  for (const std::string& whole : {Gzipped(text), Zstandard(text)}) {
    EXPECT_TRUE(InPieces(whole, 1000) == text);
    for (size_t size = 4; size < whole.size(); ++size) {
      const std::string cut = whole.substr(0, size);
      EXPECT_TRUE(InPieces(cut, 1000) == InPieces(cut, text.size())) << size;
    }
  }
}

}  // namespace
}  // namespace guestmm::trace::byte_source_test
