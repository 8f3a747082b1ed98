# What every target of ours is compiled with; linked PRIVATE so that users of the library do not inherit it.
option(RINGBUF_WERROR "Treat warnings as errors" OFF)
option(RINGBUF_FUZZ "Build the fuzz targets with libFuzzer, and no other tests; takes clang" OFF)
set(RINGBUF_SANITIZE "" CACHE STRING "Sanitizers, e.g. address,undefined or thread")

add_library(ringbuf_warnings INTERFACE)
target_compile_options(ringbuf_warnings INTERFACE -Wall -Wextra -Wshadow -Wundef
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> $<$<BOOL:${RINGBUF_WERROR}>:-Werror>)

if(RINGBUF_FUZZ)
  add_compile_options(-fno-sanitize-recover=all)  # libFuzzer must see what UBSan finds
endif()
if(RINGBUF_SANITIZE)
  # Less optimised, and lines but no variables for the debugger: takes a third of the time to compile.
  add_compile_options(-fsanitize=${RINGBUF_SANITIZE} -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=${RINGBUF_SANITIZE})
endif()
