// SPDX-License-Identifier: MIT
#include "daemon/supervisor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <optional>
#include <sstream>
#include <unordered_map>

#include "base/seqpacket.hpp"
#include "daemon/descriptor_limit.hpp"
#include "daemon/inherited.hpp"
#include "daemon/keeper.hpp"
#include "daemon/lanes.hpp"
#include "daemon/listener.hpp"
#include "daemon/spawn.hpp"
#include "daemon/state.hpp"

namespace ringbuf::daemon {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100}, kLongestPause{5000};
constexpr std::chrono::seconds kShortLife{1};  // a daemon that is dead so soon after READY would only die again
constexpr std::chrono::seconds kStopPatience{10};
constexpr std::size_t kMostInALane = 256, kMostLanes = 64;
constexpr int kTurn = 64;               // messages, before anything else is looked at
constexpr rlim_t kOwnDescriptors = 32;  // without these no daemon could be started

class Supervisor {
 public:
  Supervisor(int argc, const char* const* argv, const Options& options);
  int run();

 private:
  bool take_idle_lane();
  void start();
  void stop(int signal);
  void on_signals();
  void reload();
  bool on_wire();
  void give_up(int err);
  void on_message(Frame& frame, bool lost_descriptor);
  void keep(const std::string& name, std::vector<UniqueFd>& fds, bool lost_descriptor);
  void forget(const std::string& name);
  void close_later(std::vector<UniqueFd> fds);
  void on_ready();
  void on_end(int status);
  void on_time();
  int patience() const;
  void tell_manager(const std::string& text) const;

  int argc_;
  const char* const* argv_;
  Spawn spawn_;
  UniqueFd manager_;     // NOTIFY_SOCKET
  Inherited activated_;  // sockets that the service manager passed
  std::unordered_map<std::string, UniqueFd> kept_;
  boost::asio::io_context unused_;
  const std::shared_ptr<Lane::Patience> patience_ = std::make_shared<Lane::Patience>();
  std::vector<std::shared_ptr<Lane>> lanes_;  // the last is given to; others may be stuck
  std::string socket_path_;                   // where the kept listener is bound ...
  std::optional<FileId> socket_file_;         // ... and its file
  UniqueFd signals_;
  microseconds watchdog_;  // the manager's patience; 0: endless

  pid_t child_ = -1;
  UniqueFd wire_;  // to the child's Keeper
  bool ever_ready_ = false;
  bool reload_wanted_ = false;
  bool full_ = false;         // more descriptors came than can be kept
  std::optional<int> leave_;  // the exit status
  milliseconds pause_{0};     // before the last start
  std::optional<Clock::time_point> ready_, heard_, start_at_, kill_at_, ping_at_;
  bool stopping_ = false;
};

Supervisor::Supervisor(int argc, const char* const* argv, const Options& options)
    : argc_(argc),
      argv_(argv),
      manager_(keeper_from_environment()),
      activated_(Inherited::from_environment()),
      watchdog_(watchdog_from_environment()) {
  // What our parent forgot to close is nothing that the daemon should have.
  ::close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path);
  spawn_.path = size > 0 ? std::string(path, static_cast<std::size_t>(size)) : argv[0];
  for (int i = 0; i < argc; ++i)
    if (std::strcmp(argv[i], "--supervise") != 0) spawn_.args.emplace_back(argv[i]);
  spawn_.watchdog = watchdog_ / 2;
  raise_descriptor_limit(descriptors_needed(options.server.limits) + kOwnDescriptors);
  // A manager that does not listen must not keep us from starting the daemon again.
  const timeval longest{5, 0};
  if (manager_) ::setsockopt(manager_.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest);

  std::signal(SIGCHLD, SIG_DFL);  // ignored, it would take away how the child ended
  sigset_t ours;
  ::sigemptyset(&ours);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::sigaddset(&ours, signal);
  ::sigprocmask(SIG_BLOCK, &ours, &spawn_.mask);
  signals_.reset(::signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
}

int Supervisor::run() {
  if (!signals_) {
    spdlog::critical("cannot watch for signals: {}", std::strerror(errno));
    return 1;
  }
  if (watchdog_.count() > 0) ping_at_ = Clock::now();
  start();
  while (!leave_) {
    pollfd fds[] = {{signals_.get(), POLLIN, 0}, {wire_.get(), POLLIN, 0}};
    if (::poll(fds, 2, patience()) < 0 && errno != EINTR) {
      spdlog::critical("cannot wait: {}", std::strerror(errno));
      return 1;  // the daemon goes on without us
    }
    if (fds[1].revents) on_wire();
    if (fds[0].revents) on_signals();
    on_time();
  }
  // Nothing is kept for anybody any more.
  if (socket_file_ && file_at(socket_path_) == socket_file_) ::unlink(socket_path_.c_str());
  return *leave_;
}

// The last one is idle then. False: errno, as what is tried with it.
bool Supervisor::take_idle_lane() try {
  const auto idle = std::find_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->idle(); });
  if (idle != lanes_.end()) {
    std::swap(*idle, lanes_.back());
    return true;
  }
  lanes_.push_back(std::make_shared<Lane>(unused_, patience_));
  lanes_.back()->run(std::make_shared<Lane::Fds>());  // its thread has begun
  return true;
} catch (const std::exception&) {
  errno = EAGAIN;
  return false;
}

void Supervisor::start() {
  start_at_.reset();
  ready_.reset();
  heard_.reset();
  int ends[2];
  // While we fork no thread of ours is at work, unless it is stuck in the kernel: not every allocator lets the child do it else.
  for (const auto& lane : lanes_) lane->wait();
  if (take_idle_lane() && ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
    wire_.reset(ends[0]);
    const UniqueFd theirs(ends[1]);
    spawn_.keeper = theirs.get();
    spawn_.fds.clear();
    for (const auto& [name, fd] : activated_.all()) spawn_.fds.emplace_back(name, fd.get());
    for (const auto& [name, fd] : kept_) spawn_.fds.emplace_back(name, fd.get());
    child_ = spawn(spawn_);
    if (child_ > 0) return spdlog::info("started {}, pid {}, with {} descriptors", spawn_.path, child_, spawn_.fds.size());
  }
  spdlog::error("cannot start {}: {}", spawn_.path, std::strerror(errno));
  wire_.reset();
  pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
  start_at_ = Clock::now() + pause_;
}

void Supervisor::stop(int signal) {
  if (stopping_) {  // asked again
    if (child_ > 0) ::kill(child_, SIGKILL);
    return;
  }
  spdlog::info("{}, stopping", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  stopping_ = true;
  tell_manager("STOPPING=1");
  start_at_.reset();
  if (child_ <= 0) {
    leave_ = 0;
    return;
  }
  ::kill(child_, signal);
  kill_at_ = Clock::now() + kStopPatience;
}

void Supervisor::on_signals() {
  signalfd_siginfo info;
  bool child = false;
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo == SIGCHLD) child = true;
    else if (info.ssi_signo == SIGHUP) reload();
    else stop(static_cast<int>(info.ssi_signo));
  }
  if (!child) return;
  // Also those that are ours only because we are the first process of a container.
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == child_) on_end(status);
}

// A daemon that is not ready yet has read its options, perhaps, but would die of the signal.
void Supervisor::reload() {
  if (const auto options = parse_options(argc_, argv_)) {  // if not, the daemon says why
    raise_descriptor_limit(descriptors_needed(options->server.limits) + kOwnDescriptors);
    spdlog::set_level(spdlog::level::from_str(options->log_level));
  }
  reload_wanted_ = !ready_;
  if (ready_) ::kill(child_, SIGHUP);
}

// False: that was all for now, or for ever.
bool Supervisor::on_wire() {
  Frame frame;
  for (int i = 0; i < kTurn; ++i) {
    const auto received = recv_frame(wire_.get(), frame, MSG_DONTWAIT);
    const int err = received ? 0 : received.error().err;
    if (err == EAGAIN) return false;
    if (err == EPROTO || err == EMSGSIZE) continue;  // nothing that a Keeper says
    if (received && !*received) {
      wire_.reset();
      return false;
    }
    if (err != 0 && err != EMFILE) {
      give_up(err);
      return false;
    }
    on_message(frame, err == EMFILE);
  }
  return true;
}

// What this daemon goes on to say would not be heard, so what is kept is not what it has, and nothing for the next one.
void Supervisor::give_up(int err) {
  spdlog::error("cannot hear ringbufd, pid {}: {}; killing it, and what it served is lost", child_, std::strerror(err));
  wire_.reset();
  if (child_ > 0) ::kill(child_, SIGKILL);
  std::vector<UniqueFd> gone;
  for (auto& [name, fd] : kept_) gone.push_back(std::move(fd));
  kept_.clear();
  close_later(std::move(gone));
}

void Supervisor::on_message(Frame& frame, bool lost_descriptor) {
  std::istringstream text(std::string(reinterpret_cast<const char*>(frame.buffer.data()), frame.size));
  std::string name, for_manager;
  bool store = false, remove = false;
  for (std::string line; std::getline(text, line);) {
    if (line == "FDSTORE=1") store = true;
    else if (line == "FDSTOREREMOVE=1") remove = true;
    else if (line.starts_with("FDNAME=")) name = line.substr(7);
    else if (line == "WATCHDOG=1") heard_ = Clock::now();
    else if (line == "READY=1") on_ready(), for_manager += line + "\n";
    else if (line.starts_with("STATUS=") || line.starts_with("RELOADING=") || line.starts_with("MONOTONIC_USEC="))
      for_manager += line + "\n";
    // STOPPING=1 is for us to say: this daemon may stop, and the service goes on.
  }
  if (store) keep(name, frame.fds, lost_descriptor);
  if (remove) forget(name);
  std::erase_if(frame.fds, [](const UniqueFd& fd) { return !fd; });
  if (!frame.fds.empty()) close_later(std::exchange(frame.fds, {}));
  if (!for_manager.empty()) tell_manager(for_manager);
}

void Supervisor::keep(const std::string& name, std::vector<UniqueFd>& fds, bool lost_descriptor) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  std::size_t to_be_closed = 0;
  for (const auto& lane : lanes_) to_be_closed += lane->descriptors();
  if (lost_descriptor || activated_.all().size() + kept_.size() + to_be_closed + kOwnDescriptors > limit.rlim_cur) {
    forget(name);
    if (!std::exchange(full_, true))
      spdlog::error("RLIMIT_NOFILE is {}: descriptor '{}' and others are not kept; what they are for ends with this daemon",
                    limit.rlim_cur, name);
    return;
  }
  if (fds.size() != 1 || name.empty() || name.find(':') != name.npos) return;
  full_ = false;
  if (name == Listener::kName) {
    socket_path_ = path_of(fds[0].get());
    socket_file_ = file_at(socket_path_);
  }
  forget(name);
  kept_.emplace(name, std::move(fds[0]));
}

void Supervisor::forget(const std::string& name) {
  const auto it = kept_.find(name);
  if (it == kept_.end()) return;
  // No client can have anything else in an epoll, or something in its queue.
  if (name == Listener::kName || name[0] == static_cast<char>(Held::Event) || name[0] == static_cast<char>(Held::Kick)) {
    std::vector<UniqueFd> one;
    one.push_back(std::move(it->second));
    close_later(std::move(one));
  }
  kept_.erase(it);
}

// They may be the last copies, which take as long to close as a client likes.
void Supervisor::close_later(std::vector<UniqueFd> fds) {
  const auto gone = std::make_shared<Lane::Fds>();
  gone->all = std::move(fds);
  // Behind one that is stuck no more than so much waits, as long as there are few of them.
  if (lanes_.back()->descriptors() >= kMostInALane && lanes_.size() < kMostLanes) (void)take_idle_lane();
  lanes_.back()->give(gone);
}

void Supervisor::on_ready() {
  heard_ = Clock::now();
  if (ready_) return;  // the end of a reload
  ready_ = heard_;
  ever_ready_ = true;
  if (std::exchange(reload_wanted_, false)) ::kill(child_, SIGHUP);
}

void Supervisor::on_end(int status) {
  while (wire_ && on_wire()) continue;  // its last words
  wire_.reset();
  const pid_t pid = std::exchange(child_, -1);
  const std::string how = WIFSIGNALED(status) ? fmt::format("was killed by signal {}", WTERMSIG(status))
                                              : fmt::format("ended with status {}", WEXITSTATUS(status));
  kill_at_.reset();
  if (stopping_) {
    spdlog::info("ringbufd, pid {}, {}", pid, how);
    leave_ = 0;
    return;
  }
  if (!ever_ready_ && WIFEXITED(status) && (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 2)) {
    leave_ = WEXITSTATUS(status);  // it has said why
    return;
  }
  const auto now = Clock::now();
  const bool from_outside = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  const bool would_die_again = !ready_ || (now - *ready_ < kShortLife && !from_outside);
  pause_ = would_die_again ? std::clamp(pause_ * 2, kFirstPause, kLongestPause) : milliseconds(0);
  const std::string next = pause_.count() ? fmt::format("starting it again in {} ms", pause_.count()) : "starting it again";
  spdlog::warn("ringbufd, pid {}, {}; {}", pid, how, next);
  tell_manager(fmt::format("STATUS=The daemon {}; {}", how, next));
  ready_.reset();
  heard_.reset();
  start_at_ = now + pause_;
}

void Supervisor::on_time() {
  const auto now = Clock::now();
  const auto due = [&](auto& when) { return when && *when <= now; };
  if (due(ping_at_)) {
    tell_manager("WATCHDOG=1");
    ping_at_ = now + watchdog_ / 4;
  }
  // Ours to kill, so that what it served is not lost as it would be if the manager did that to all of us.
  if (ping_at_ && heard_ && now - *heard_ > spawn_.watchdog && child_ > 0 && !stopping_) {
    spdlog::error("ringbufd, pid {}, has given no sign of life for {} ms; killing it", child_,
                  std::chrono::duration_cast<milliseconds>(spawn_.watchdog).count());
    heard_.reset();
    ::kill(child_, SIGKILL);
  }
  if (due(kill_at_)) {
    spdlog::error("ringbufd, pid {}, does not stop; killing it", child_);
    kill_at_.reset();
    ::kill(child_, SIGKILL);
  }
  if (due(start_at_)) start();
}

// Milliseconds until something is due.
int Supervisor::patience() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&](const std::optional<Clock::time_point>& when) {
    if (when && (!next || *when < *next)) next = when;
  };
  consider(start_at_);
  consider(kill_at_);
  consider(ping_at_);
  if (ping_at_ && heard_) consider(*heard_ + spawn_.watchdog + milliseconds(1));
  if (!next) return -1;
  const auto left = std::chrono::ceil<milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

void Supervisor::tell_manager(const std::string& text) const {
  if (!manager_) return;
  if (const auto sent = send_frame(manager_.get(), std::as_bytes(std::span(text)), {}); !sent)
    spdlog::warn("cannot reach the service manager: {}", std::strerror(sent.error().err));
}

}  // namespace

int supervise(int argc, const char* const* argv, const Options& options) { return Supervisor(argc, argv, options).run(); }

}  // namespace ringbuf::daemon
