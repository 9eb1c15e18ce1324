// Matrices that a warp multiplies together, on the host: the first lane holds all of a matrix, and the others nothing.

#pragma once

#include "device.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void> struct fragment {
  float values[16][16];
};

inline float to_float(float x) { return x; }
inline float to_float(__half x) { return __half2float(x); }
inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// CUDA asks for 32 bytes and for rows that are 16 bytes apart.
template <typename T> void check(const T* at, unsigned stride) {
  if (reinterpret_cast<std::uintptr_t>(at) % 32 != 0 || stride * sizeof(T) % 16 != 0) std::abort();
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* from, unsigned stride) {
  check(from, stride);
  if (emulator::lane() != 0) return;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) {
      to.values[r][c] = to_float(std::is_same_v<Layout, col_major> ? from[c * stride + r] : from[r * stride + c]);
    }
  }
}

template <typename F> void fill_fragment(F& to, float value) {
  for (auto& row : to.values) std::fill(std::begin(row), std::end(row), value);
}

template <typename A, typename B, typename C> void mma_sync(C& d, const A& a, const B& b, const C& c) {
  if (emulator::lane() != 0) return;
  C sums = c;
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) sums.values[r][n] += a.values[r][k] * b.values[k][n];
    }
  }
  d = sums;
}

template <typename F> void store_matrix_sync(float* to, const F& from, unsigned stride, layout_t) {
  check(to, stride);
  if (emulator::lane() != 0) return;
  for (int r = 0; r < 16; ++r) std::copy(std::begin(from.values[r]), std::end(from.values[r]), to + r * stride);
}

}  // namespace nvcuda::wmma
