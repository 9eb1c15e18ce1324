// Scaled dot-product attention over padded keys: see ../src/attention.rs.
//
// A block takes some queries of one head and goes through the keys tile by tile; no row of scores is ever written. Heads are at
// most WIDTH wide; columns behind a head's are zero. What a query sees is a number of keys from the first on: see `seen`.
//
// In f32 the softmax is carried along (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). In 16 bits
// the products run on tensor cores, whose registers hold sums in an order that is not ours to know: there the tiles are gone
// through twice, for largest score and sum first, so that sums of values never have to be scaled again.

#include <mma.h>

#include "common.cuh"

constexpr int WIDTH = 128;
constexpr int KEYS = 32;
constexpr int WARPS = 4;

struct Attention {
  long long q_item, q_row, k_item, k_row, v_item, v_row;
  int time, heads, width, visible;
  float scale;
};

// Kinds of `visible`.
constexpr int PAST = 1;
constexpr int SPLIT = 2;

// How many keys the query of this row sees.
__device__ inline int seen(int row, int queries, int keys, int visible, int split) {
  if (row >= queries) return 0;
  if (visible == PAST) return min(keys, row + 1);
  if (visible == SPLIT && row + 1 < split) return min(keys, split);
  return keys;
}

// Rows `start..start + ROWS` of a matrix of `rows`, as a tile in shared memory, zero behind its last row and column. Where it
// can, a thread moves 16 bytes at a time.
template <int ROWS, int STRIDE, typename T>
__device__ void load_tile(T (*tile)[STRIDE], const T* from, long long stride, int start, int rows, int width) {
  using P = Pack<T, 16 / sizeof(T)>;
  constexpr int N = 16 / sizeof(T);
  static_assert(STRIDE % N == 0, "rows of a tile are aligned");
  if (reinterpret_cast<size_t>(from) % 16 == 0 && stride % N == 0 && width % N == 0) {
    for (int i = threadIdx.x; i < ROWS * WIDTH / N; i += blockDim.x) {
      const int row = i * N / WIDTH, column = i * N % WIDTH;
      const bool inside = start + row < rows && column < width;
      const P zero = {};
      *reinterpret_cast<P*>(&tile[row][column]) =
          inside ? *reinterpret_cast<const P*>(from + (start + row) * stride + column) : zero;
    }
    return;
  }
  for (int i = threadIdx.x; i < ROWS * WIDTH; i += blockDim.x) {
    const int row = i / WIDTH, column = i % WIDTH;
    const bool inside = start + row < rows && column < width;
    tile[row][column] = inside ? from[(start + row) * stride + column] : narrow<T>(0.0f);
  }
}

__device__ void attention_float(const float* q, const float* k, const float* v, const unsigned* query_lengths,
                                const unsigned* key_lengths, const unsigned* splits, float* y, const Attention& a) {
  constexpr int ROWS = 8;
  constexpr int QUERIES = ROWS * WARPS;
  constexpr int COLUMNS = WIDTH / WARP;
  constexpr int STRIDE = WIDTH + 4;
  __shared__ __align__(16) float queries[QUERIES][STRIDE];
  // Keys, then values.
  __shared__ __align__(16) float tile[KEYS][STRIDE];
  __shared__ float weights[QUERIES][KEYS];
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int first = blockIdx.x * QUERIES;
  const int head = blockIdx.y;
  const int item = blockIdx.z;
  const int keys = key_lengths[item];
  const int valid = query_lengths[item];
  const int split = splits ? splits[item] : 0;
  q += item * a.q_item + head * a.width;
  k += item * a.k_item + head * a.width;
  v += item * a.v_item + head * a.width;

  float largest[ROWS], sums[ROWS], out[ROWS][COLUMNS];
  int counts[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    largest[r] = -INFINITY;
    sums[r] = 0.0f;
    for (int c = 0; c < COLUMNS; ++c) out[r][c] = 0.0f;
    counts[r] = seen(first + warp * ROWS + r, valid, keys, a.visible, split);
  }
  load_tile<QUERIES>(queries, q, a.q_row, first, valid, a.width);
  const int end = first >= valid ? 0 : a.visible == PAST ? min(keys, first + QUERIES) : keys;
  for (int start = 0; start < end; start += KEYS) {
    __syncthreads();
    load_tile<KEYS>(tile, k, a.k_row, start, keys, a.width);
    __syncthreads();
    float scores[ROWS] = {};
    for (int c = 0; c < a.width; c += 4) {
      const float4 key = *reinterpret_cast<const float4*>(&tile[lane][c]);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const float4 query = *reinterpret_cast<const float4*>(&queries[warp * ROWS + r][c]);
        scores[r] += query.x * key.x + query.y * key.y + query.z * key.z + query.w * key.w;
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const bool sees = start + lane < counts[r];
      const float score = scores[r] * a.scale;
      const float most = fmaxf(largest[r], warp_max(sees ? score : -INFINITY));
      // Before the first key that is seen there is nothing to scale, and infinities have no difference.
      const float factor = largest[r] == -INFINITY ? 0.0f : expf(largest[r] - most);
      const float weight = sees ? expf(score - most) : 0.0f;
      sums[r] = sums[r] * factor + warp_sum(weight);
      largest[r] = most;
      weights[warp * ROWS + r][lane] = weight;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) out[r][c] *= factor;
    }
    __syncthreads();
    load_tile<KEYS>(tile, v, a.v_row, start, keys, a.width);
    __syncthreads();
    for (int key = 0; key < KEYS; ++key) {
      const float4 value = *reinterpret_cast<const float4*>(&tile[key][lane * COLUMNS]);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const float weight = weights[warp * ROWS + r][key];
        out[r][0] += weight * value.x;
        out[r][1] += weight * value.y;
        out[r][2] += weight * value.z;
        out[r][3] += weight * value.w;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int row = first + warp * ROWS + r;
    if (row >= a.time) continue;
    const float scale = sums[r] > 0.0f ? 1.0f / sums[r] : 0.0f;
    float* to = y + ((static_cast<long long>(item) * a.time + row) * a.heads + head) * a.width;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      if (lane * COLUMNS + c < a.width) to[lane * COLUMNS + c] = out[r][c] * scale;
    }
  }
}

template <typename T>
__device__ void attention_half(const T* q, const T* k, const T* v, const unsigned* query_lengths,
                               const unsigned* key_lengths, const unsigned* splits, T* y, const Attention& a) {
  using namespace nvcuda;
  // Side of the matrices that a warp multiplies.
  constexpr int SIDE = 16;
  constexpr int QUERIES = SIDE * WARPS;
  constexpr int STEPS = WIDTH / SIDE;
  constexpr int PARTS = KEYS / SIDE;
  // Rows lie 16 bytes apart from what the banks repeat after.
  constexpr int STRIDE = WIDTH + 8;
  constexpr int SCORES = KEYS + 4;
  constexpr int WEIGHTS = KEYS + 8;
  static_assert(2 * KEYS == QUERIES, "queries, keys and values share a tile");
  // The queries, then keys and values.
  __shared__ __align__(32) T tile[QUERIES][STRIDE];
  __shared__ __align__(32) float all_scores[WARPS][SIDE][SCORES];
  __shared__ __align__(32) T all_weights[WARPS][SIDE][WEIGHTS];
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int first = blockIdx.x * QUERIES;
  const int head = blockIdx.y;
  const int item = blockIdx.z;
  const int keys = key_lengths[item];
  const int valid = query_lengths[item];
  const int split = splits ? splits[item] : 0;
  const int steps = (a.width + SIDE - 1) / SIDE;
  q += item * a.q_item + head * a.width;
  k += item * a.k_item + head * a.width;
  v += item * a.v_item + head * a.width;
  float(*scores)[SCORES] = all_scores[warp];
  T(*weights)[WEIGHTS] = all_weights[warp];
  T(*values)[STRIDE] = tile + KEYS;

  load_tile<QUERIES>(tile, q, a.q_row, first, valid, a.width);
  __syncthreads();
  wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, T, wmma::row_major> queries[STEPS];
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    if (step < steps) wmma::load_matrix_sync(queries[step], &tile[warp * SIDE][step * SIDE], STRIDE);
  }

  // Scores of the warp's queries with the keys of the tile.
  const auto multiply = [&] {
    wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> sums[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; ++part) wmma::fill_fragment(sums[part], 0.0f);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      if (step >= steps) continue;
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, T, wmma::col_major> key;
        wmma::load_matrix_sync(key, &tile[part * SIDE][step * SIDE], STRIDE);
        wmma::mma_sync(sums[part], queries[step], key, sums[part]);
      }
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      wmma::store_matrix_sync(&scores[0][part * SIDE], sums[part], SCORES, wmma::mem_row_major);
    }
    __syncwarp();
  };

  // Two lanes share a row of scores.
  constexpr int COLUMNS = KEYS / 2;
  const int row = lane / 2;
  const int column = lane % 2 * COLUMNS;
  const int count = seen(first + warp * SIDE + row, valid, keys, a.visible, split);
  const int end = first >= valid ? 0 : a.visible == PAST ? min(keys, first + QUERIES) : keys;
  float largest = -INFINITY, sum = 0.0f;
  for (int start = 0; start < end; start += KEYS) {
    __syncthreads();
    load_tile<KEYS>(tile, k, a.k_row, start, keys, a.width);
    __syncthreads();
    multiply();
    const int here = min(COLUMNS, count - start - column);
    float most = largest;
    for (int c = 0; c < here; ++c) most = fmaxf(most, scores[row][column + c] * a.scale);
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    float more = 0.0f;
    for (int c = 0; c < here; ++c) more += expf(scores[row][column + c] * a.scale - most);
    more += __shfl_xor_sync(0xffffffffu, more, 1);
    // Before the first key that is seen there is nothing to scale, and infinities have no difference.
    sum = (largest == -INFINITY ? 0.0f : sum * expf(largest - most)) + more;
    largest = most;
    __syncwarp();
  }

  const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
  wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> out[STEPS];
#pragma unroll
  for (int step = 0; step < STEPS; ++step) wmma::fill_fragment(out[step], 0.0f);
  for (int start = 0; start < end; start += KEYS) {
    __syncthreads();
    load_tile<KEYS>(tile, k, a.k_row, start, keys, a.width);
    load_tile<KEYS>(values, v, a.v_row, start, keys, a.width);
    __syncthreads();
    multiply();
    for (int c = 0; c < COLUMNS; ++c) {
      const bool sees = start + column + c < count;
      const float weight = sees ? expf(scores[row][column + c] * a.scale - largest) * scale : 0.0f;
      weights[row][column + c] = narrow<T>(weight);
    }
    __syncwarp();
    wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, T, wmma::row_major> weight[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; ++part) wmma::load_matrix_sync(weight[part], &weights[0][part * SIDE], WEIGHTS);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      if (step >= steps) continue;
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, T, wmma::row_major> value;
        wmma::load_matrix_sync(value, &values[part * SIDE][step * SIDE], STRIDE);
        wmma::mma_sync(out[step], weight[part], value, out[step]);
      }
    }
  }
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    if (step >= steps) continue;
    wmma::store_matrix_sync(&scores[0][0], out[step], SCORES, wmma::mem_row_major);
    __syncwarp();
    for (int i = lane; i < SIDE * SIDE; i += WARP) {
      const int r = first + warp * SIDE + i / SIDE, c = step * SIDE + i % SIDE;
      if (r >= a.time || c >= a.width) continue;
      y[((static_cast<long long>(item) * a.time + r) * a.heads + head) * a.width + c] = narrow<T>(scores[i / SIDE][i % SIDE]);
    }
    __syncwarp();
  }
}

__device__ inline void attend(const float* q, const float* k, const float* v, const unsigned* query_lengths,
                              const unsigned* key_lengths, const unsigned* splits, float* y, const Attention& a) {
  attention_float(q, k, v, query_lengths, key_lengths, splits, y, a);
}

template <typename T>
__device__ void attend(const T* q, const T* k, const T* v, const unsigned* query_lengths, const unsigned* key_lengths,
                       const unsigned* splits, T* y, const Attention& a) {
  attention_half(q, k, v, query_lengths, key_lengths, splits, y, a);
}

#define KERNEL(format, T)                                                                                               \
  extern "C" __global__ void attention_##format(                                                                        \
      const T* q, const T* k, const T* v, const unsigned* query_lengths, const unsigned* key_lengths,                   \
      const unsigned* splits, T* y, long long q_item, long long q_row, long long k_item, long long k_row,               \
      long long v_item, long long v_row, int time, int heads, int width, int visible, float scale) {                    \
    const Attention a = {q_item, q_row, k_item, k_row, v_item, v_row, time, heads, width, visible, scale};              \
    attend(q, k, v, query_lengths, key_lengths, splits, y, a);                                                          \
  }
FOR_EVERY_FORMAT(KERNEL)
