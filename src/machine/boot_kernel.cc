#include "guestmm/machine/boot_kernel.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/gfp.h"

namespace guestmm {

absl::Status BootKernel(Vcpu& vcpu, uint64_t bytes, KernelTouch touch) {
  for (uint64_t left = bytes; left > 0;) {
    Order order = kMaxOrder;
    while (order > Order(0) && order.bytes() > left) {
      order = Order(order.value() - 1);
    }
    const std::optional<Pfn> pfn = vcpu.Allocate(order, kGfpKernel);
    if (!pfn) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the guest's kernel does not fit: ", FormatBytes(left),
                       " of ", FormatBytes(bytes), " are missing"));
    }
    if (touch == KernelTouch::kYes) vcpu.Touch(*pfn, order, /*stamp=*/0);
    left -= std::min(left, order.bytes());
  }
  return absl::OkStatus();
}

}  // namespace guestmm
