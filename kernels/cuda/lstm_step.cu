// One step of an LSTM layer, in one direction or both: see ../src/lstm.rs.
//
// A block computes UNITS hidden units of ITEMS items. Its warps share the sum over the states among them, and a lane has one
// column of the weight: a gate of a unit. States are f32 whatever the format, and change buffers from step to step, since every
// block reads all of an item's.

#include "common.cuh"

constexpr int UNITS = 8;
constexpr int ITEMS = 8;
constexpr int WARPS = 8;
constexpr int CHUNK = 256;
constexpr int GATES = 4;
static_assert(UNITS * GATES == WARP, "a lane has one column");

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T>
__device__ void lstm_step(const T* gates, const T* weight_there, const T* weight_back, const unsigned* lengths,
                          const float* h_before, float* h_after, float* c, T* y, int batch, int time, int hidden, int step) {
  __shared__ float states[ITEMS][CHUNK];
  __shared__ float partial[WARPS][ITEMS][WARP];
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int first_unit = blockIdx.x * UNITS;
  const int first_item = blockIdx.y * ITEMS;
  // The first direction, or the one back; their gates and results lie side by side, their states one after the other.
  const int direction = blockIdx.z, directions = gridDim.z;
  const T* weight = direction == 0 ? weight_there : weight_back;
  const long long states_before = static_cast<long long>(direction) * batch * hidden;
  h_before += states_before;
  h_after += states_before;
  c += states_before;
  const int column = lane / UNITS * hidden + first_unit + lane % UNITS;
  const bool real = first_unit + lane % UNITS < hidden;

  float sums[ITEMS] = {};
  // Before the first step all states are zero.
  for (int start = 0; step > 0 && start < hidden; start += CHUNK) {
    __syncthreads();
    for (int i = threadIdx.x; i < ITEMS * CHUNK; i += blockDim.x) {
      const int item = first_item + i / CHUNK, k = start + i % CHUNK;
      states[i / CHUNK][i % CHUNK] = item < batch && k < hidden ? h_before[static_cast<long long>(item) * hidden + k] : 0.0f;
    }
    __syncthreads();
    const int end = min(CHUNK, hidden - start);
    for (int k = warp; real && k < end; k += WARPS) {
      const float w = widen(weight[static_cast<long long>(start + k) * GATES * hidden + column]);
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) sums[i] += states[i][k] * w;
    }
  }
#pragma unroll
  for (int i = 0; i < ITEMS; ++i) partial[warp][i][lane] = sums[i];
  __syncthreads();

  const int item = first_item + threadIdx.x / UNITS;
  const int unit = first_unit + threadIdx.x % UNITS;
  if (threadIdx.x >= ITEMS * UNITS || item >= batch || unit >= hidden) return;
  const int length = lengths[item];
  if (step >= length) return;
  const int t = direction == 0 ? step : length - 1 - step;
  const long long row = (static_cast<long long>(item) * time + t) * directions + direction;
  float sum[GATES];
#pragma unroll
  for (int gate = 0; gate < GATES; ++gate) {
    sum[gate] = widen(gates[(row * GATES + gate) * hidden + unit]);
    for (int w = 0; w < WARPS; ++w) sum[gate] += partial[w][item - first_item][gate * UNITS + unit - first_unit];
  }
  const long long state = static_cast<long long>(item) * hidden + unit;
  const float cell = sigmoid(sum[1]) * (step > 0 ? c[state] : 0.0f) + sigmoid(sum[0]) * tanhf(sum[2]);
  const float h = sigmoid(sum[3]) * tanhf(cell);
  c[state] = cell;
  h_after[state] = h;
  y[row * hidden + unit] = narrow<T>(h);
}

#define KERNEL(format, T)                                                                                              \
  extern "C" __global__ void lstm_step_##format(const T* gates, const T* weight_there, const T* weight_back,           \
                                                const unsigned* lengths, const float* h_before, float* h_after,        \
                                                float* c, T* y, int batch, int time, int hidden, int step) {           \
    lstm_step(gates, weight_there, weight_back, lengths, h_before, h_after, c, y, batch, time, hidden, step);          \
  }
FOR_EVERY_FORMAT(KERNEL)
