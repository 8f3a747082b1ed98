// SPDX-License-Identifier: MIT
// The socket that clients connect to: from socket activation, kept from the daemon before this one, or bound here; and the lock
// that tells daemons of one path apart.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.hpp"
#include "daemon/inherited.hpp"
#include "daemon/keeper.hpp"
#include "daemon/refusal.hpp"

namespace ringbuf::daemon {

using FileId = std::pair<dev_t, ino_t>;

// Which file a path leads to.
std::optional<FileId> file_at(const std::string& path);
// Of a bound Unix socket; "@name" if it is abstract.
std::string path_of(int socket);

struct Listener {
  // Their names at the keeper.
  static constexpr const char* kName = "l";
  static constexpr const char* kLockName = "lock";

  // A listener or lock in `inherited` is taken from it and goes before `path`.
  static Answer<Listener> obtain(const std::string& path, unsigned mode, Inherited& inherited);
  // What the daemon after this one is to have.
  void keep(Keeper& keeper) const;
  // Removes its file, if it is ours to remove and still the same: somebody may have removed it, and the lock file, while we
  // served, and a successor's is left alone. Called while the listener is open, so that no other file can have got its inode.
  void remove_file() const;

  UniqueFd fd;
  UniqueFd lock;               // none: activated, and the lock file cannot be made
  std::string path;            // as it is bound
  std::optional<FileId> file;  // none: not ours to remove
  bool activated = false;      // whoever started us will pass it to the next one
};

}  // namespace ringbuf::daemon
