/* SPDX-License-Identifier: MIT */
/* Before R1, R2 and R3 of a reaper's walk (docs/memory-ordering.md), in reaper_stress.cpp: waits until others have passed it by.
 */
#pragma once
#include <cstdint>
namespace ringbuf::shm {
class Ring;
}
void ringbuf_test_passed_by(unsigned r, const ringbuf::shm::Ring& ring, std::uint64_t pos) noexcept;
#define RINGBUF_TEST_BEFORE(r, ring, pos) ringbuf_test_passed_by(r, ring, pos)
