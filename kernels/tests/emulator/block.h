// How the driver runs kernels.

#pragma once

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

// Does what a stream has put off.
void finish(CUstream_st* stream);

// Runs all blocks of a grid.
void launch(const char* name, const Kernel& kernel, const Dimensions& grid, const Dimensions& block, void** arguments);

}  // namespace emulator
