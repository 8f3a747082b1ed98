// SPDX-License-Identifier: MIT
// The descriptors that this process was started with, by name: what a keeper held for it, and a listener by socket activation.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

class Inherited {
 public:
  Inherited() = default;
  // $LISTEN_PID, $LISTEN_FDS and $LISTEN_FDNAMES, and what did not fit into the latter in $RINGBUFD_FDNAMES_1, _2 ... Unsets all
  // of them; from now on the descriptors are CLOEXEC. Logs what is wrong with them.
  static Inherited from_environment();

  void add(std::string name, UniqueFd fd) { fds_.emplace(std::move(name), std::move(fd)); }
  UniqueFd take(const std::string& name);  // none: there is no such name, or no more of them
  std::vector<std::string> names() const;  // of those that were not taken; sorted
  bool empty() const { return fds_.empty(); }
  const std::multimap<std::string, UniqueFd>& all() const { return fds_; }

 private:
  std::multimap<std::string, UniqueFd> fds_;  // what is left is closed with this
};

}  // namespace ringbuf::daemon
