// What candle's kernels use beyond ours: they are compiled as they lie in its crate.

#pragma once

#include "device.h"

// Bodies for this capability are those with every number format; CUDA's headers have been read as for the host.
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#include <cassert>
#include <limits>

using std::signbit;

inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.7071067811865476); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

// Blocks run one after the other, and their threads until they wait: nothing comes between.
template <typename T, typename V> T atomicAdd(T* to, V value) {
  const T before = *to;
  *to = static_cast<T>(before + static_cast<T>(value));
  return before;
}

template <typename T, typename V> T atomicMax(T* to, V value) {
  const T before = *to;
  *to = std::max(before, static_cast<T>(value));
  return before;
}

template <typename T, typename V> T atomicMin(T* to, V value) {
  const T before = *to;
  *to = std::min(before, static_cast<T>(value));
  return before;
}

template <typename T, typename C, typename V> T atomicCAS(T* to, C expected, V value) {
  const T before = *to;
  if (before == static_cast<T>(expected)) *to = static_cast<T>(value);
  return before;
}

template <typename To, typename From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline double __longlong_as_double(long long x) { return bits_as<double>(x); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return bits_as<float>(x); }
inline int __float_as_int(float x) { return bits_as<int>(x); }

template <typename T> T through_float(T x, float (*f)(float)) { return static_cast<T>(f(static_cast<float>(x))); }

#define FUNCTION_OF_HALVES(name, f)                                                       \
  inline __half name(__half x) { return through_float(x, [](float x) { return f(x); }); } \
  inline __nv_bfloat16 name(__nv_bfloat16 x) { return through_float(x, [](float x) { return f(x); }); }
FUNCTION_OF_HALVES(hsqrt, std::sqrt)
FUNCTION_OF_HALVES(hsin, std::sin)
FUNCTION_OF_HALVES(hcos, std::cos)
FUNCTION_OF_HALVES(hlog, std::log)
FUNCTION_OF_HALVES(hexp, std::exp)
