// SPDX-License-Identifier: MIT
// libringbuf's objects with an owner, and its failures as sentences.
#pragma once

#include <ringbuf/ringbuf.h>

#include <memory>
#include <string>

#include "cli.hpp"
#include "result.hpp"

namespace ringbufctl {

template <auto free_function>
struct Freer {
  template <class T>
  void operator()(T* object) const {
    free_function(object);
  }
};

using Session = std::unique_ptr<ringbuf_session, Freer<ringbuf_session_free>>;
using Map = std::unique_ptr<ringbuf_map, Freer<ringbuf_map_free>>;
using Producer = std::unique_ptr<ringbuf_producer, Freer<ringbuf_producer_free>>;
using Consumer = std::unique_ptr<ringbuf_consumer, Freer<ringbuf_consumer_free>>;
using Observer = std::unique_ptr<ringbuf_observer, Freer<ringbuf_observer_free>>;
using Poller = std::unique_ptr<ringbuf_poller, Freer<ringbuf_poller_free>>;

// The library's own sentence for the call that just returned -errno; `hint` says what to do if the sentence does not.
tl::unexpected<Failure> library_failure(int negative_errno, const std::string& hint = "");

Result<Session> connect(const Globals& globals);
Result<Map> open_map(const Session& session, const MapName& name, uint32_t rights);
Result<ringbuf_map_info> map_info(const Map& map);

// A map that the command works on.
struct OpenMap {
  Map map;
  ringbuf_map_info info;
};
Result<OpenMap> open_map_for(const Session& session, const Invocation& invocation, uint32_t rights);

}  // namespace ringbufctl
