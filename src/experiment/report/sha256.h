#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_SHA256_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace guestmm {

// SHA-256 (FIPS 180-4), as sha256sum prints it.
class Sha256 {
 public:
  void Add(std::string_view bytes);
  // In 64 hexadecimal digits. REQUIRES: called once, and last.
  std::string Finish();

  static std::string Of(std::string_view bytes);

 private:
  static constexpr size_t kBlockBytes = 64;

  void AddBlock();

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372,
                                    0xa54ff53a, 0x510e527f, 0x9b05688c,
                                    0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, kBlockBytes> block_;
  size_t used_ = 0;  // of the block
  uint64_t bytes_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_SHA256_H_
