// Blocks of a grid, one after the other: each thread of a block is a fiber that runs until it waits for others.

#include "block.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device.h"

Dimensions threadIdx, blockIdx, blockDim, gridDim;

extern "C" char __start_shared_memory[], __stop_shared_memory[];

namespace emulator {
namespace {

constexpr int WARP = 32;
constexpr std::size_t STACK = 128 * 1024;

enum class State { READY, WARP_WAITS, BLOCK_WAITS, ENDED };

struct Fiber {
  // Where it starts, and where it goes on: jumps cost no system call.
  ucontext_t start;
  jmp_buf place;
  std::unique_ptr<char[]> stack{new char[STACK]};
  State state;
  bool started;
  Dimensions index;
  unsigned char passed[8];
};

std::vector<Fiber> fibers;
jmp_buf scheduler;
Fiber* current;
const char* kernel_name;
const Kernel* kernel;
void** arguments;

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> known;
  return known;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s: %s\n", kernel_name, what);
  std::abort();
}

void run_thread() {
  kernel->run(arguments);
  current->state = State::ENDED;
  _longjmp(scheduler, 1);
}

void wait(State state) {
  if (!current) fail("waits, though nothing in its file said so");
  current->state = state;
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

// Until it waits or ends.
__attribute__((noinline)) void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

// Runs what can run of a warp. Every other block starts from the last lane, so that neither order hides a missing wait.
void run_warp(int first, int last, bool backwards) {
  for (int i = 0; i < last - first; ++i) {
    Fiber& fiber = fibers[backwards ? last - 1 - i : first + i];
    if (fiber.state == State::READY) resume(fiber);
  }
}

// Lets those of a group go on that all wait for each other; whether there were any.
bool release(int first, int last, State state) {
  bool any = false;
  for (int i = first; i < last; ++i) {
    if (fibers[i].state == State::ENDED) continue;
    if (fibers[i].state != state) return false;
    any = true;
  }
  for (int i = first; i < last; ++i) {
    if (fibers[i].state == state) fibers[i].state = State::READY;
  }
  return any;
}

Dimensions index_of(unsigned thread) {
  return {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
}

void run_block(int threads, bool backwards) {
  if (!kernel->waits) {
    current = nullptr;
    for (int i = 0; i < threads; ++i) {
      threadIdx = index_of(i);
      kernel->run(arguments);
    }
    return;
  }
  // Bits of a NaN, in every format.
  std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.state = State::READY;
    fiber.started = false;
    fiber.index = index_of(i);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, run_thread, 0);
  }
  for (;;) {
    for (int first = 0; first < threads; first += WARP) {
      const int last = std::min(first + WARP, threads);
      do run_warp(first, last, backwards);
      while (release(first, last, State::WARP_WAITS));
    }
    if (release(0, threads, State::BLOCK_WAITS)) continue;
    bool ended = true;
    for (int i = 0; i < threads; ++i) ended &= fibers[i].state == State::ENDED;
    if (ended) return;
    fail("threads of a block wait for each other in different places");
  }
}

}  // namespace

Registration::Registration(const char* name, void (*run)(void** arguments), bool waits) { kernels()[name] = {run, waits}; }

void wait_for_block() { wait(State::BLOCK_WAITS); }
void wait_for_warp() { wait(State::WARP_WAITS); }

void exchange(void* value, std::size_t size, int lane) {
  std::memcpy(current->passed, value, size);
  Fiber* self = current;
  wait_for_warp();
  const int first = static_cast<int>(self - fibers.data()) / WARP * WARP;
  std::memcpy(value, fibers[first + lane].passed, size);
  wait_for_warp();
}

const Kernel* find(const char* name) {
  const auto found = kernels().find(name);
  return found == kernels().end() ? nullptr : &found->second;
}

void launch(const char* name, const Kernel& what, const Dimensions& grid, const Dimensions& block, void** with) {
  const int threads = static_cast<int>(block.x * block.y * block.z);
  if (fibers.size() < static_cast<std::size_t>(threads)) fibers = std::vector<Fiber>(threads);
  kernel_name = name;
  kernel = &what;
  arguments = with;
  gridDim = grid;
  blockDim = block;
  unsigned count = 0;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(threads, count++ % 2 == 1);
      }
    }
  }
}

}  // namespace emulator
