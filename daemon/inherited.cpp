// SPDX-License-Identifier: MIT
#include "daemon/inherited.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>

namespace ringbuf::daemon {
namespace {

constexpr int kFirst = 3;

std::string take_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (!value) return {};
  std::string taken = value;
  ::unsetenv(name.c_str());
  return taken;
}

std::optional<int> number(const std::string& text) {
  int n = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (ec != std::errc{} || end != text.data() + text.size() || n < 0) return std::nullopt;
  return n;
}

}  // namespace

Inherited Inherited::from_environment() {
  Inherited inherited;
  const std::string pid = take_variable("LISTEN_PID"), count = take_variable("LISTEN_FDS");
  std::string names = take_variable("LISTEN_FDNAMES");
  for (int i = 1;; ++i) {
    const std::string more = take_variable("RINGBUFD_FDNAMES_" + std::to_string(i));
    if (more.empty()) break;
    names += ":" + more;
  }
  if (pid.empty() || count.empty() || number(pid) != ::getpid()) return inherited;  // meant for somebody else
  const auto n = number(count);
  if (!n) {
    spdlog::error("LISTEN_FDS='{}' is not a number; no descriptors are taken over", count);
    return inherited;
  }
  std::istringstream in(names);
  for (int i = 0; i < *n; ++i) {
    // The count is what somebody says; a descriptor that is not there ends it.
    if (::fcntl(kFirst + i, F_SETFD, FD_CLOEXEC) < 0) {
      spdlog::error("LISTEN_FDS is {}, but descriptor {} is not there: {}", *n, kFirst + i, std::strerror(errno));
      break;
    }
    std::string name;
    if (!std::getline(in, name, ':')) name = "unknown";
    inherited.add(std::move(name), UniqueFd(kFirst + i));
  }
  return inherited;
}

UniqueFd Inherited::take(const std::string& name) {
  const auto it = fds_.lower_bound(name);
  if (it == fds_.end() || it->first != name) return {};
  UniqueFd fd = std::move(it->second);
  fds_.erase(it);
  return fd;
}

std::vector<std::string> Inherited::names() const {
  std::vector<std::string> all;
  for (const auto& [name, fd] : fds_) all.push_back(name);
  return all;
}

}  // namespace ringbuf::daemon
