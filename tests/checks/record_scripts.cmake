# cmake -D ROOT=DIR -P record_scripts.cmake: fails unless scripts/record-a-trace and
# record-in-qemu reject wrong arguments by name and leave no files behind.

cmake_minimum_required(VERSION 3.25)

string(RANDOM LENGTH 12 name)
set(out ${CMAKE_CURRENT_BINARY_DIR}/record_scripts.${name})

# refuses(script message ARGUMENT...): the script must fail with this message.
function(refuses script message)
  execute_process(
    COMMAND ${ROOT}/scripts/${script} ${ARGN}
    RESULT_VARIABLE status
    OUTPUT_VARIABLE output
    ERROR_VARIABLE error
    TIMEOUT 30)
  string(FIND "${error}" "${script}: ${message}" at)
  if(NOT status EQUAL 1 OR NOT at EQUAL 0)
    message(SEND_ERROR "${script} ${ARGN}: ended with ${status} and said \"${error}\": expected \"${script}: ${message}\"")
  endif()
  if(EXISTS ${out})
    message(SEND_ERROR "${script} ${ARGN}: left ${out}")
  endif()
endfunction()

refuses(record-a-trace "usage: ")
refuses(record-a-trace "usage: " ${out})
refuses(record-a-trace "--buffer=x: must be a whole number of MiB" ${out} --buffer x true)
refuses(record-a-trace "--rest=-1: must be a whole number of seconds" ${out} --rest -1 true)
refuses(record-a-trace "--frobnicate: must be --buffer, --rest or --raw" ${out} --frobnicate true)
refuses(record-a-trace "no command to run" ${out} --raw)
refuses(record-a-trace "no command to run" ${out} --)
refuses(record-a-trace "no command to run" ${out} --buffer 64)

refuses(record-in-qemu "usage: ")
refuses(record-in-qemu "usage: " --memory 3G)
refuses(record-in-qemu "--memory: must have a value" ${out} --memory)
refuses(record-in-qemu "--memory=3X: must be a size such as 3G" ${out} --memory 3X)
refuses(record-in-qemu "--cpus=0: must be a whole number from 1" ${out} --memory 1G --cpus 0)
refuses(record-in-qemu "--settle=-1: must be a whole number of seconds" ${out} --settle -1)
refuses(record-in-qemu "--rest=x: must be a whole number of seconds" ${out} --rest x -- true)
refuses(record-in-qemu "--kernel=6.12: must be a Debian package such as linux-image-" ${out} --kernel 6.12 -- true)
refuses(record-in-qemu "--buffer=0: must be a whole number of MiB" ${out} --buffer 0 -- true)
refuses(record-in-qemu "--packages=a b: must be names of Debian packages" ${out} --packages "a b")
refuses(record-in-qemu "--copy=${out}: must be a file or folder" ${out} --copy ${out})
refuses(record-in-qemu "--accel=xen: must be kvm or tcg" ${out} --accel xen)
refuses(record-in-qemu "--frobnicate: must be an option of this script" ${out} --frobnicate 1)
refuses(record-in-qemu "true: must be an option of this script" ${out} true x)
refuses(record-in-qemu "${out},2: must have no comma, for QEMU" ${out},2)
refuses(record-in-qemu "${ROOT}: must be absent or an empty folder" ${ROOT})
