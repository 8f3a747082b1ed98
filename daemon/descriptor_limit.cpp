// SPDX-License-Identifier: MIT
#include "daemon/descriptor_limit.hpp"

#include <algorithm>

namespace ringbuf::daemon {

rlim_t descriptors_needed(const Limits& limits) {
  const auto in_all = [&](Resource resource) { return limits[static_cast<std::size_t>(resource)].in_all; };
  // A map has two files and an eventfd; a session its socket, its lease and its pidfd; the rest is ours, and room for requests.
  return 64 + kMostToClose + 3 * in_all(Resource::Maps) + in_all(Resource::Tokens) + 3 * in_all(Resource::Sessions) +
         in_all(Resource::Attachments);
}

bool raise_descriptor_limit(rlim_t needed) {
  rlimit r{};
  if (::getrlimit(RLIMIT_NOFILE, &r) < 0) return true;  // nothing can be said
  rlimit enough{std::max(needed, r.rlim_max), std::max(needed, r.rlim_max)};
  if (::setrlimit(RLIMIT_NOFILE, &enough) == 0) return true;
  r.rlim_cur = r.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &r);
  return r.rlim_max >= needed;
}

}  // namespace ringbuf::daemon
