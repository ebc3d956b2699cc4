# The modules of the library, from the bottom up, and which others each may use.
# src/CMakeLists.txt builds them; the test `modules` refuses an #include that
# this table does not have.
#
# One line a module: "PATH: MODULE...".

# Base to host and vmm: libguestmm_core.a, without JSON, zstd and zlib.
set(GUESTMM_CORE_MODULES
    "base:"
    "frame: base"
    "ram: base"
    # The guest's kernel.
    "buddy: base frame ram"
    "mm/migrate: base frame ram buddy"
    "reporting: base frame buddy"
    # The wire.
    "virtio/wire: base ram"
    "virtio/driver: base frame ram buddy reporting virtio/wire"
    "host/discard: base ram"
    "virtio/device: base ram host/discard virtio/wire"
    "virtio/vhost_user: base ram virtio/wire"
    "virtio/vhost_user/front_end: base ram virtio/wire virtio/vhost_user"
    "virtio/vhost_user/back_end: base ram host/discard virtio/wire virtio/vhost_user"
    "vmm: base ram host/discard virtio/wire virtio/device virtio/vhost_user/back_end"
    # The host.
    "host/accounting: base frame ram host/discard")

set(GUESTMM_MODULES
    ${GUESTMM_CORE_MODULES}
    "trace: base"
    # A machine.
    "machine: base frame ram host/accounting"
    "machine/model: base frame ram buddy reporting host/discard host/accounting machine"
    "machine/real: base frame ram buddy mm/migrate reporting virtio/wire virtio/driver virtio/device virtio/vhost_user/front_end host/discard host/accounting machine"
    "workload: base frame machine"
    # What it is for.
    "mechanism: base reporting"
    "experiment/replay: base frame ram buddy reporting trace host/discard host/accounting machine machine/model mechanism"
    "experiment/density: base frame ram buddy reporting host/discard host/accounting machine machine/model machine/real workload mechanism"
    "experiment/compare: base frame ram buddy reporting trace host/discard host/accounting machine machine/model machine/real workload mechanism experiment/replay"
    "experiment/report: base frame buddy reporting trace host/accounting machine machine/model workload mechanism experiment/replay experiment/density experiment/compare")

# guestmm_parse_modules(modules): sets guestmm_names to their paths, and
# guestmm_uses_PATH to what each may use.
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
