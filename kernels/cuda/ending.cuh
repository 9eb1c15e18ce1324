// What follows the product of a linear layer: activation(sums + bias + addends), N values at a time. See ../src/linear.rs.

#pragma once

#include "common.cuh"

// An addend that is not there is null.
template <typename T> struct Ending {
  const T* bias;
  const T* first;
  const T* second;
  int relu;
};

// Of the sums at `place`, which are those of output `column`.
template <int N, typename T>
__device__ Pack<T, N> end(Pack<T, N> sums, const Ending<T>& ending, long long place, int column) {
  using P = Pack<T, N>;
  const auto read = [](const T* from) { return *reinterpret_cast<const P*>(from); };
  const P biases = read(ending.bias + column);
  const P zero = {};
  const P firsts = ending.first ? read(ending.first + place) : zero;
  const P seconds = ending.second ? read(ending.second + place) : zero;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float sum = widen(sums.values[i]) + widen(biases.values[i]) + widen(firsts.values[i]) + widen(seconds.values[i]);
    // Written so that NaN stays.
    sums.values[i] = narrow<T>(ending.relu && sum < 0.0f ? 0.0f : sum);
  }
  return sums;
}
