// SPDX-License-Identifier: MIT
// Runs a fuzz target on all files of the directories (or on the files) that it is given: how every build holds what fuzzing has
// found, without libFuzzer.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz/input.hpp"

namespace {

// The input at work, for the report of a crash.
char current[4096];

void say_which() {
  (void)!::write(STDERR_FILENO, "input: ", 7);
  (void)!::write(STDERR_FILENO, current, std::strlen(current));
  (void)!::write(STDERR_FILENO, "\n", 1);
}

void on_signal(int signal) {
  say_which();
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

std::vector<std::filesystem::path> files_of(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) files.emplace_back(argv[i]);
    else
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTERM}) ::signal(signal, on_signal);
  std::atexit([] {
    if (current[0]) say_which();  // a sanitizer has ended the process
  });
  const auto files = files_of(argc, argv);
  if (files.empty()) {
    std::fprintf(stderr, "usage: %s DIRECTORY|FILE...: there is nothing to run\n", argv[0]);
    return 2;
  }
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(in), {});
    std::snprintf(current, sizeof current, "%s", file.c_str());
    if (!in) {
      std::fprintf(stderr, "cannot read %s\n", current);
      return 2;
    }
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  }
  current[0] = 0;
  std::printf("%zu inputs\n", files.size());
}
