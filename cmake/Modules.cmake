# The modules of the library, bottom up, and the modules that each may include. A
# module is a folder of include/guestmm/ and src/; docs/design.md says what it is.
#
# One line per module, "PATH: MODULE...", with all modules that it includes directly.
# They must be in lines above, so there are no cycles. A new edge needs a reason; an
# edge that is no longer used goes.
#
# Used by src/CMakeLists.txt, which builds a library of each, by tests/ and bench/, and
# by the test `modules`, which rejects any other #include.

# libguestmm_core.a: the guest's kernel, the wire and the host. Needs no JSON, zstd and
# zlib.
set(GUESTMM_CORE_MODULES
    "base:"
    "frame: base"
    "ram: base"
    # The guest's kernel. Reporting policies know no device and no thread.
    "buddy: base frame ram"
    "mm/migrate: base ram buddy"
    "reporting: base frame buddy"
    # The wire, cut by trust: driver and front_end are the guest's side; device,
    # back_end and vmm are the host's, trust no guest and include none of its code.
    "virtio/wire: base ram"
    "virtio/driver: base frame ram buddy reporting virtio/wire"
    "host/discard: base ram"
    "virtio/device: base ram host/discard virtio/wire"
    "virtio/vhost_user: base virtio/wire"
    "virtio/vhost_user/front_end: base ram virtio/wire virtio/vhost_user"
    "virtio/vhost_user/back_end: base ram virtio/wire virtio/vhost_user"
    "vmm: base ram host/discard virtio/wire virtio/device virtio/vhost_user/back_end"
    # The host.
    "host/accounting: base frame ram host/discard")

# libguestmm.a: the above, and machines, experiments and their results.
set(GUESTMM_MODULES
    ${GUESTMM_CORE_MODULES}
    "trace: base"
    # The socket by which the host's owner controls a vmm. In JSON, so not in core.
    "vmm/control: base virtio/wire vmm"
    # A machine: interfaces, the model in virtual time, the real one, and workloads.
    "machine: base frame ram host/accounting"
    "machine/model: base ram buddy reporting host/discard host/accounting machine"
    "machine/real: base ram buddy mm/migrate reporting virtio/wire virtio/driver virtio/device virtio/vhost_user/front_end host/discard host/accounting machine"
    "workload: base frame machine"
    # Mechanisms, and the experiments that compare them.
    "mechanism: base reporting machine"
    "experiment/replay: base frame ram buddy mm/migrate reporting trace host/discard host/accounting machine machine/model mechanism"
    "experiment/density: base ram buddy reporting host/discard host/accounting machine machine/model machine/real workload mechanism"
    "experiment/compare: base buddy reporting trace host/discard host/accounting machine machine/model machine/real workload mechanism experiment/replay"
    "experiment/report: base reporting trace host/accounting machine/model workload mechanism experiment/replay experiment/density experiment/compare")

# guestmm_parse_modules(LINE...): sets guestmm_names to the modules' paths in order,
# and guestmm_uses_PATH to the modules that PATH may include.
macro(guestmm_parse_modules)
  set(guestmm_names)
  foreach(line ${ARGN})
    string(REGEX MATCH "^([^:]+):(.*)$" _ "${line}")
    set(guestmm_name ${CMAKE_MATCH_1})
    string(STRIP "${CMAKE_MATCH_2}" guestmm_uses)
    string(REGEX REPLACE " +" ";" guestmm_uses_${guestmm_name} "${guestmm_uses}")
    list(APPEND guestmm_names ${guestmm_name})
  endforeach()
endmacro()
