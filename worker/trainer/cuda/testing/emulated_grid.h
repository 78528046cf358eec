#pragma once

#include <cstdint>
#include <functional>

// A grid of device threads on one CPU thread, so that the kernels' bodies run with their shuffles and barriers where no
// GPU is. Each device thread is a fiber that gives way where it waits for others; who runs next is drawn from a seed.
// Code that lacks a barrier gives other numbers under another seed.
namespace normlab::trainer::cuda {

class EmulatedBlock;

/// What DeviceThread is on a GPU.
class EmulatedThread {
 public:
  EmulatedThread(EmulatedBlock* owner, int index) : owner_(owner), index_(index) {}

  int index() const { return index_; }
  int block_size() const;
  int block() const;
  int num_blocks() const;
  float* shared() const;
  void Barrier();
  float ShuffleXor(float value, int mask);

 private:
  EmulatedBlock* owner_;
  int index_;
};

struct GridShape {
  int blocks;
  int block_threads;
};

/// Runs body once in every thread. Throws std::logic_error if some wait for threads that have ended.
void RunGrid(const GridShape& shape, uint32_t seed, const std::function<void(EmulatedThread&)>& body);

}  // namespace normlab::trainer::cuda
