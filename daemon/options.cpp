// SPDX-License-Identifier: MIT
#include "daemon/options.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <vector>

#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace ringbuf::daemon {
namespace {

constexpr const char* kRootDirectory = "/run/ringbufd";

std::optional<std::uint64_t> parse_number(std::string_view text, int base, bool suffix) {
  unsigned shift = 0;
  if (suffix && !text.empty()) {
    constexpr std::string_view kSuffixes = "KMG";
    if (const auto at = kSuffixes.find(static_cast<char>(std::toupper(text.back()))); at != kSuffixes.npos) {
      shift = 10 * (static_cast<unsigned>(at) + 1);
      text.remove_suffix(1);
    }
  }
  std::uint64_t value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (ec != std::errc{} || end != text.data() + text.size() || value > (UINT64_MAX >> shift)) return std::nullopt;
  return value << shift;
}

// One thing that can be set, on the command line as --option and in the file as table.key.
struct Setting {
  std::string option;
  std::string table;  // "" or "limits"
  std::string key;
  std::string help;
  std::string value_name;
  std::string expected;  // what a right value looks like
  bool integer, string;  // which of them the file may give
  std::function<bool(Options&, const std::string&)> apply;
  std::string value = {};  // from the command line

  std::string path() const { return table.empty() ? key : table + "." + key; }
};

std::string dashed(std::string text) {
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

std::vector<Setting> all_settings() {
  std::vector<Setting> all;
  all.push_back({"--socket", "", "socket",
                 "Listen at this path (default $RINGBUFD_SOCKET; else /run/ringbufd/ringbufd.sock as root, "
                 "$XDG_RUNTIME_DIR/ringbufd.sock as a user)",
                 "PATH", "a path of at most 107 bytes", false, true, [](Options& o, const std::string& v) {
                   o.server.socket = v;
                   return !v.empty() && v.size() < 108;
                 }});
  all.push_back({"--socket-mode", "", "socket_mode", "Permissions of the socket: who may connect at all (default 0666)", "OCTAL",
                 "octal permissions up to 0777", true, true, [](Options& o, const std::string& v) {
                   const auto n = parse_number(v, 8, false);
                   if (n) o.server.socket_mode = static_cast<unsigned>(*n);
                   return n && *n <= 0777;
                 }});
  all.push_back({"--log-level", "", "log_level", "trace, debug, info, warn, error, critical or off (default info)", "LEVEL",
                 "trace, debug, info, warn, error, critical or off", false, true, [](Options& o, const std::string& v) {
                   constexpr std::array kLevels{"trace", "debug", "info", "warn", "error", "critical", "off"};
                   o.log_level = v;
                   return std::find(kLevels.begin(), kLevels.end(), v) != kLevels.end();
                 }});
  for (std::size_t r = 0; r < kResources; ++r) {
    const std::string name = kResourceNames[r];
    const bool bytes = static_cast<Resource>(r) == Resource::Bytes;
    const std::string shape = bytes ? "a number of bytes, with K, M or G if you like" : "a whole number";
    const auto shown = [&](std::uint64_t v) { return bytes ? fmt::format("{}G", v >> 30) : std::to_string(v); };
    for (const bool per_uid : {false, true}) {
      const auto of = [=](Options& o) -> std::uint64_t& {
        return per_uid ? o.server.limits[r].per_uid : o.server.limits[r].in_all;
      };
      Options defaults;
      const std::string key = name + (per_uid ? "_per_uid" : "");
      const std::string help = fmt::format("{} {} (default {})", bytes ? "Memory of all maps," : "Most " + name + ",",
                                           per_uid ? "for each uid but 0" : "in all", shown(of(defaults)));
      all.push_back({dashed("--max-" + key), "limits", key, help, bytes ? "BYTES" : "N", shape, true, bytes,
                     [=](Options& o, const std::string& v) {
                       const auto n = parse_number(v, 10, bytes);
                       if (n) of(o) = *n;
                       return n.has_value();
                     }});
    }
  }
  return all;
}

tl::unexpected<Leave> usage(std::string text) { return tl::unexpected<Leave>(Leave{2, std::move(text)}); }

// How a value of the file would be written on the command line; empty: not of a kind that can be.
std::string as_text(const Setting& setting, const toml::node& node) {
  if (const auto s = node.value_exact<std::string>()) return setting.string ? *s : "";
  const auto n = node.value_exact<std::int64_t>();
  if (!n || *n < 0 || !setting.integer) return {};
  return setting.key == "socket_mode" ? fmt::format("{:o}", *n) : std::to_string(*n);
}

tl::expected<void, Leave> apply_table(const toml::table& table, const std::string& name, const std::string& file,
                                      std::vector<Setting>& settings, Options& options) {
  for (const auto& [k, node] : table) {
    const std::string key(k.str());
    if (const auto* inner = node.as_table(); inner && name.empty() && key == "limits") {
      if (auto r = apply_table(*inner, key, file, settings, options); !r) return r;
      continue;
    }
    const auto it =
        std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.table == name && s.key == key; });
    if (it == settings.end()) return usage(fmt::format("{}: unknown key '{}{}{}'", file, name, name.empty() ? "" : ".", key));
    const std::string text = as_text(*it, node);
    if (text.empty() || !it->apply(options, text))
      return usage(fmt::format("{}: key '{}' must be {}", file, it->path(), it->expected));
  }
  return {};
}

tl::expected<void, Leave> apply_file(const std::string& file, std::vector<Setting>& settings, Options& options) {
  // Reading a pipe could wait for ever, and a directory reads as an empty file.
  if (struct stat st; ::stat(file.c_str(), &st) == 0 && !S_ISREG(st.st_mode))
    return usage(fmt::format("{} is not a regular file; give --config one", file));
  const toml::parse_result parsed = toml::parse_file(file);
  if (!parsed) {
    const auto& e = parsed.error();
    const auto line = e.source().begin.line;  // 0: it could not be read at all
    return usage(line ? fmt::format("{}: line {}: {}", file, line, e.description())
                      : fmt::format("{}: {}", file, e.description()));
  }
  return apply_table(parsed.table(), "", file, settings, options);
}

tl::expected<std::string, Leave> default_socket() {
  if (::geteuid() == 0) {
    ::mkdir(kRootDirectory, 0755);  // if it fails, opening the lock there says why
    return std::string(kRootDirectory) + "/ringbufd.sock";
  }
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir && *dir) return std::string(dir) + "/ringbufd.sock";
  return usage("XDG_RUNTIME_DIR is not set, so there is no default place for the socket; give --socket PATH");
}

}  // namespace

tl::expected<Options, Leave> parse_options(int argc, const char* const* argv) {
  CLI::App app(
      "ringbufd - BPF ring buffer maps in user space.\n"
      "Creates maps, hands out their memory and decides who may use them; records never pass through it.\n"
      "Runs in the foreground, logs to stderr, ends cleanly on SIGTERM or SIGINT; SIGHUP reads the options again\n"
      "(log level and limits change at once, the socket does not). Socket activation, READY=1, the watchdog and\n"
      "the descriptor store of systemd work as they are; see docs/operations.md.",
      "ringbufd");
  app.footer(
      "The file given by --config is TOML with the same names:\n"
      "  socket = \"/run/ringbufd/ringbufd.sock\"\n"
      "  socket_mode = \"0660\"\n"
      "  log_level = \"info\"\n"
      "  [limits]\n"
      "  maps = 4096\n"
      "  bytes_per_uid = \"512M\"\n"
      "The command line beats the environment, the environment beats the file.\n"
      "Exit status: 0 stopped by a signal, 1 could not serve, 2 bad options.");
  std::string config;
  app.set_version_flag("--version", "ringbufd " RINGBUF_VERSION);
  app.add_option("--config", config, "Read settings from this file")->option_text("FILE");
  bool supervise = false;
  app.add_flag("--supervise", supervise, "Run the daemon as a child, keep its descriptors and start it again whenever it dies")
      ->disable_flag_override();
  auto settings = all_settings();
  for (Setting& s : settings)
    app.add_option(s.option, s.value, s.help)
        ->option_text(s.value_name)
        ->group(s.table.empty() ? "Options" : "Limits of what clients can hold");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream out, err;
    if (app.exit(e, out, err) == 0) return tl::unexpected<Leave>(Leave{0, out.str()});
    return usage(fmt::format("{}; see ringbufd --help", e.what()));
  }
  Options options;
  options.supervise = supervise;
  if (!config.empty())
    if (auto r = apply_file(config, settings, options); !r) return tl::unexpected(r.error());
  if (const char* socket = std::getenv("RINGBUFD_SOCKET"); socket && *socket) options.server.socket = socket;
  for (const Setting& s : settings)
    if (app.count(s.option) && !s.apply(options, s.value))
      return usage(fmt::format("{} must be {}, not '{}'", s.option, s.expected, s.value));
  if (options.server.socket.empty()) {
    auto socket = default_socket();
    if (!socket) return tl::unexpected(socket.error());
    options.server.socket = std::move(*socket);
  }
  return options;
}

}  // namespace ringbuf::daemon
