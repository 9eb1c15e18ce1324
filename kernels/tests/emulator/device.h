// CUDA's language on the host: what kernels see of the device. Included before each kernel, in place of nvcc's own header.

#pragma once

// CUDA's own number formats, which know the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

// Left for the list of kernels, empty for the compiler.
#undef __global__
#define __global__ EMULATED_KERNEL
// All of it lies together, so that it can be spoilt before a block begins.
#undef __shared__
#define __shared__ static __attribute__((section("shared_memory")))

struct Dimensions {
  unsigned x, y, z;
};

// Of the thread that runs.
extern Dimensions threadIdx, blockIdx, blockDim, gridDim;

using std::isinf;
using std::isnan;
using std::max;
using std::min;

namespace emulator {

// Waits for all threads of the block, or of the warp, that have not ended.
void wait_for_block();
void wait_for_warp();
// What a lane of the warp passes, eight bytes at most.
void exchange(void* value, std::size_t size, int lane);

inline int lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

template <typename... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <typename... A> void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>());
}

// Makes a kernel known to the driver.
struct Registration {
  Registration(const char* name, void (*run)(void** arguments), bool waits);
};

}  // namespace emulator

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() { emulator::wait_for_warp(); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  emulator::exchange(&value, sizeof value, emulator::lane() ^ mask);
  return value;
}
