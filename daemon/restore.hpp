// SPDX-License-Identifier: MIT
// Goes on where another daemon was killed: builds everything again from its state and the descriptors that the keeper has kept.
#pragma once

#include "daemon/handlers.hpp"

namespace ringbuf::daemon {

// Before anything else happens to `core`, which has the other's state. Takes what it needs out of `inherited`; the rest belongs
// to nothing. What hung up or died meanwhile is dropped, and the rings of the dead are healed. Fails for want of something only;
// then nobody may go on with `core`, whose state still has everything.
Answer<void> restore(Core& core, Inherited& inherited);

}  // namespace ringbuf::daemon
