#ifndef GUESTMM_MACHINE_CONTROLLER_H_
#define GUESTMM_MACHINE_CONTROLLER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/workqueue.h"

namespace GUESTMM_EXPORT guestmm {

class Machine;

// A controller's knowledge of a guest, in bytes.
struct GuestView {
  uint64_t managed = 0;
  uint64_t free = 0;       // on free lists
  uint64_t allocated = 0;  // not free, cached, isolated or offline
  uint64_t resident = 0;   // by the ledger; 0 without one
};

// A controller's knowledge of the host, in bytes.
struct HostView {
  uint64_t capacity = 0;
  uint64_t available = 0;
};

// Decides how much memory a guest should use, from the state of guest and host.
class Controller {
 public:
  virtual ~Controller() = default;

  virtual std::string_view name() const = 0;
  // The guest's target in bytes; none: the target stays what it is.
  virtual std::optional<uint64_t> Target(Nanoseconds now,
                                         const GuestView& guest,
                                         const HostView& host) = 0;
};

// Asks a controller at intervals, and hands each new target to the machine's
// mechanism.
class ControlLoop {
 public:
  // Begins at once; ends with this. All must outlive this. `host` is called on
  // `workqueue`, as is everything else here. REQUIRES: `period` > 0.
  ControlLoop(Machine& machine, Controller& controller,
              std::function<HostView()> host, Workqueue& workqueue,
              Nanoseconds period);
  ~ControlLoop();
  ControlLoop(const ControlLoop&) = delete;
  ControlLoop& operator=(const ControlLoop&) = delete;

 private:
  void Step();

  Machine& machine_;
  Controller& controller_;
  const std::function<HostView()> host_;
  Workqueue& workqueue_;
  const Nanoseconds period_;
  std::optional<uint64_t> target_;
  Work step_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_CONTROLLER_H_
