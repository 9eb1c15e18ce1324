// CUDA's driver for a device that is the host: one GPU, whose memory is the process's.
//
// Kernels run when they are launched. Copies within the device and from pinned memory, and waiting for events, are put off as long
// as a driver may: until something comes behind them in their stream, or waits for an event behind them. So work that forgets to
// wait finds what was there before.
//
// It is strict where a driver may be lenient: what is allocated holds no numbers until it is written, and ends where a page ends
// that nobody may touch; a grid without blocks is an error. Room for nothing is given, as candle's own tests on GPUs take it.

#include <cuda.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "device.h"

struct CUfunc_st {
  const char* name;
  const emulator::Kernel* kernel;
};

struct CUevent_st {
  CUstream stream = nullptr;
  // Steps of the stream that are before it.
  size_t steps = 0;
};

// What a stream has put off: to wait for an event, to copy, or to give memory back.
struct Step {
  CUevent_st event = {};
  void* to = nullptr;
  const void* from = nullptr;
  size_t size = 0;
  CUdeviceptr freed = 0;
};

struct CUstream_st {
  std::deque<Step> waiting;
  // Steps before those.
  size_t done = 0;
};

namespace {

std::mutex lock;
std::map<CUdeviceptr, size_t> memory;
// Of the host: where it begins, and where it ends.
std::map<const char*, const char*> pinned;
std::recursive_mutex stepping;
std::vector<CUstream> streams;
size_t in_use, peak;
const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));
// Widest access of a kernel.
constexpr size_t ALIGNMENT = 16;

// What EMULATOR_MEMORY sets, so that running out of memory can be tried; 8 GiB else.
size_t most() {
  const char* set = std::getenv("EMULATOR_MEMORY");
  return set ? std::strtoull(set, nullptr, 10) : size_t{8} << 30;
}

size_t pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

void* bytes(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }

// Memory that ends where a page ends, or null.
char* map(size_t size) {
  const size_t length = pages(size);
  char* start = static_cast<char*>(
      mmap(nullptr, length + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (start == MAP_FAILED) return nullptr;
  mprotect(start + length, PAGE, PROT_NONE);
  std::memset(start, 0xff, length);
  return start + (length - size) / ALIGNMENT * ALIGNMENT;
}

void unmap(void* start, size_t size) {
  munmap(reinterpret_cast<void*>(reinterpret_cast<size_t>(start) / PAGE * PAGE), pages(size) + PAGE);
}

CUresult allocate(CUdeviceptr* to, size_t size) {
  size = std::max<size_t>(size, 1);
  std::lock_guard<std::mutex> held(lock);
  if (in_use + size > most()) return CUDA_ERROR_OUT_OF_MEMORY;
  char* start = map(size);
  if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
  *to = reinterpret_cast<CUdeviceptr>(start);
  memory[*to] = size;
  in_use += size;
  peak = std::max(peak, in_use);
  return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer) {
  std::lock_guard<std::mutex> held(lock);
  const auto found = memory.find(pointer);
  if (found == memory.end()) return CUDA_ERROR_INVALID_VALUE;
  unmap(bytes(pointer), found->second);
  in_use -= found->second;
  memory.erase(found);
  return CUDA_SUCCESS;
}

bool is_pinned(const void* from) {
  std::lock_guard<std::mutex> held(lock);
  const char* start = static_cast<const char*>(from);
  const auto behind = pinned.upper_bound(start);
  return behind != pinned.begin() && start < std::prev(behind)->second;
}

// The streams that every context has put nothing off.
bool is_own(CUstream stream) { return reinterpret_cast<size_t>(stream) > 2; }

void finish(const CUevent_st& event);

void run(const Step& step) {
  finish(step.event);
  if (step.size > 0) std::memmove(step.to, step.from, step.size);
  if (step.freed) release(step.freed);
}

// Does what an event has before it.
void finish(const CUevent_st& event) {
  if (!event.stream) return;
  std::lock_guard<std::recursive_mutex> held(stepping);
  CUstream_st& stream = *event.stream;
  while (!stream.waiting.empty() && stream.done < event.steps) {
    const Step step = stream.waiting.front();
    stream.waiting.pop_front();
    ++stream.done;
    run(step);
  }
}

void put_off(CUstream stream, const Step& step) {
  std::lock_guard<std::recursive_mutex> held(stepping);
  if (is_own(stream)) return stream->waiting.push_back(step);
  run(step);
}

}  // namespace

void emulator::finish(CUstream_st* stream) {
  if (is_own(stream)) ::finish(CUevent_st{stream, SIZE_MAX});
}

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int index) {
  return index == 0 ? (*device = 0, CUDA_SUCCESS) : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  return std::snprintf(name, length, "emulated on the host"), CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 8; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) { return *pool = nullptr, CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
  if (attribute != CU_MEMPOOL_ATTR_USED_MEM_HIGH) return CUDA_ERROR_NOT_SUPPORTED;
  std::lock_guard<std::mutex> held(lock);
  return *static_cast<cuuint64_t*>(value) = peak, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  return *context = reinterpret_cast<CUcontext>(1), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { return *context = reinterpret_cast<CUcontext>(1), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  std::lock_guard<std::recursive_mutex> held(stepping);
  streams.push_back(*stream = new CUstream_st);
  return CUDA_SUCCESS;
}
// It stays, since events may name it.
CUresult cuStreamDestroy(CUstream stream) { return emulator::finish(stream), CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream stream) { return emulator::finish(stream), CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  Step step;
  step.event = *event;
  return put_off(stream, step), CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent* event, unsigned) { return *event = new CUevent_st, CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent event) { return delete event, CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
  std::lock_guard<std::recursive_mutex> held(stepping);
  if (is_own(stream)) *event = {stream, stream->done + stream->waiting.size()};
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) { return finish(*event), CUDA_SUCCESS; }

CUresult cuMemAlloc(CUdeviceptr* pointer, size_t size) { return allocate(pointer, size); }
CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream) { return allocate(pointer, size); }
CUresult cuMemFree(CUdeviceptr pointer) { return release(pointer); }
CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
  std::lock_guard<std::recursive_mutex> held(stepping);
  if (!is_own(stream) || stream->waiting.empty()) return release(pointer);
  Step step;
  step.freed = pointer;
  return put_off(stream, step), CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned) {
  std::lock_guard<std::mutex> held(lock);
  char* start = map(size);
  if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
  pinned[start] = start + size;
  return *pointer = start, CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* pointer) {
  std::lock_guard<std::mutex> held(lock);
  const auto found = pinned.find(static_cast<const char*>(pointer));
  if (found == pinned.end()) return CUDA_ERROR_INVALID_VALUE;
  unmap(pointer, found->second - found->first);
  pinned.erase(found);
  return CUDA_SUCCESS;
}
CUresult cuMemGetInfo(size_t* free, size_t* total) {
  {
    std::lock_guard<std::recursive_mutex> held(stepping);
    for (CUstream stream : streams) emulator::finish(stream);
  }
  std::lock_guard<std::mutex> held(lock);
  *total = most();
  *free = *total - in_use;
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
  emulator::list("fill %zu bytes\n", size);
  emulator::finish(stream);
  return std::memset(bytes(to), value, size), CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
  emulator::list("upload %zu bytes, %s\n", size, is_pinned(from) ? "pinned" : "not pinned");
  put_off(stream, {{}, bytes(to), from, size, 0});
  // What is not pinned has been read when the call returns.
  if (!is_pinned(from)) emulator::finish(stream);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream stream) {
  emulator::list("read %zu bytes\n", size);
  emulator::finish(stream);
  return std::memcpy(to, bytes(from), size), CUDA_SUCCESS;
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  emulator::list("copy %zu bytes\n", size);
  return put_off(stream, {{}, bytes(to), bytes(from), size, 0}), CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void*) { return *module = reinterpret_cast<CUmodule>(1), CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  static std::map<std::string, CUfunc_st> functions;
  const emulator::Kernel* kernel = emulator::find(name);
  if (!kernel) {
    std::fprintf(stderr, "emulator: no kernel %s\n", name);
    return CUDA_ERROR_NOT_FOUND;
  }
  std::lock_guard<std::mutex> held(lock);
  const auto known = functions.emplace(name, CUfunc_st{nullptr, kernel}).first;
  known->second.name = known->first.c_str();
  *function = &known->second;
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                        unsigned threads_z, unsigned, CUstream stream, void** arguments, void**) {
  const unsigned threads = threads_x * threads_y * threads_z;
  if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads == 0 || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
  emulator::list("launch %s, %u x %u x %u blocks\n", function->name, x, y, z);
  emulator::finish(stream);
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> held(one_at_a_time);
  const Dimensions grid = {x, y, z}, block = {threads_x, threads_y, threads_z};
  emulator::launch(function->name, *function->kernel, grid, block, arguments);
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

}  // extern "C"
