// How the driver runs kernels.

#pragma once

#include <cstdio>
#include <cstdlib>

struct CUstream_st;
struct Dimensions;

namespace emulator {

struct Kernel {
  void (*run)(void** arguments);
  // Whether its threads wait for each other: those of others need no stack of their own.
  bool waits;
};

// The kernel of this name, or null.
const Kernel* find(const char* name);

// Where EMULATOR_CALLS is set, what a program asks the device for goes to stderr, a line each.
template <typename... Values> void list(const char* format, Values... values) {
  static const bool asked = std::getenv("EMULATOR_CALLS") != nullptr;
  if (asked) std::fprintf(stderr, format, values...);
}

// Does what a stream has put off.
void finish(CUstream_st* stream);

// Runs all blocks of a grid.
void launch(const char* name, const Kernel& kernel, const Dimensions& grid, const Dimensions& block, void** arguments);

}  // namespace emulator
