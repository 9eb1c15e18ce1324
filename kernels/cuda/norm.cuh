// Layer normalisation of one row by a warp: see ../src/layer_norm.rs.
//
// Three passes, the last two from its cache: mean, variance about the mean, result. A lane takes N values at a time.

#pragma once

#include "common.cuh"

template <int N, typename T>
__device__ void normalise(const T* x, const T* weight, const T* bias, T* y, int width, float eps) {
  using P = Pack<T, N>;
  const auto read = [](const T* from) { return *reinterpret_cast<const P*>(from); };
  const int first = threadIdx.x % WARP * N;
  float sum = 0.0f;
  for (int i = first; i < width; i += WARP * N) {
    const P values = read(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += widen(values.values[k]);
  }
  const float mean = warp_sum(sum) / width;
  float squares = 0.0f;
  for (int i = first; i < width; i += WARP * N) {
    const P values = read(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float centred = widen(values.values[k]) - mean;
      squares += centred * centred;
    }
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
  for (int i = first; i < width; i += WARP * N) {
    P values = read(x + i);
    const P weights = read(weight + i);
    const P biases = read(bias + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float normed = (widen(values.values[k]) - mean) * scale;
      values.values[k] = narrow<T>(normed * widen(weights.values[k]) + widen(biases.values[k]));
    }
    *reinterpret_cast<P*>(y + i) = values;
  }
}
