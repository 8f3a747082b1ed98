/* SPDX-License-Identifier: MIT */
/* Behind each store of ringbufd_stored (daemon_walk_test.cpp): the one that the counter says is its last. */
#pragma once
void ringbuf_test_stored() noexcept;
#define RINGBUF_TEST_STORED() ringbuf_test_stored()
