// Joins what streams remember with their new rows, and keeps what they remember next: see ../src/join_rows.rs.
//
// A block copies one joined row of one stream.

#include "common.cuh"

// What the table says of a stream; places are of the first layer.
struct Stream {
  long long past, kept;
  long long lead, past_rows, fresh_rows, first_kept, kept_rows;
};

template <typename T>
__device__ void join_rows(const T* fresh, long long item, long long row, const Stream* streams, T* y, int width, int layer) {
  const Stream stream = streams[blockIdx.y];
  // Remembered rows come first, then new ones; what is before and behind is zero.
  const long long t = blockIdx.x, place = t - stream.lead, next = place - stream.past_rows;
  const T* from = nullptr;
  if (place >= 0 && next < 0) {
    from = reinterpret_cast<const T*>(stream.past) + (layer * stream.past_rows + place) * width;
  } else if (next >= 0 && next < stream.fresh_rows) {
    from = fresh + blockIdx.y * item + next * row;
  }
  const long long kept = t - stream.first_kept;
  T* to = y + (static_cast<long long>(blockIdx.y) * gridDim.x + t) * width;
  T* also = nullptr;
  if (kept >= 0 && kept < stream.kept_rows) {
    also = reinterpret_cast<T*>(stream.kept) + (layer * stream.kept_rows + kept) * width;
  }
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const T value = from ? from[i] : narrow<T>(0.0f);
    to[i] = value;
    if (also) also[i] = value;
  }
}

#define KERNEL(format, T)                                                                                               \
  extern "C" __global__ void join_rows_##format(const T* fresh, long long item, long long row, const Stream* streams,   \
                                                T* y, int width, int layer) {                                           \
    join_rows(fresh, item, row, streams, y, width, layer);                                                              \
  }
FOR_EVERY_FORMAT(KERNEL)
