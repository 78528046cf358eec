#include "worker/trainer/cuda/testing/emulated_grid.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "worker/trainer/cuda/team.h"

namespace normlab::trainer::cuda {

class EmulatedBlock {
 public:
  static constexpr size_t kStackBytes = 64 << 10;

  /// `stacks`: kStackBytes for each thread.
  EmulatedBlock(const GridShape& shape, int block, const std::function<void(EmulatedThread&)>& body, char* stacks)
      : shape_(shape),
        block_(block),
        body_(body),
        stacks_(stacks),
        shared_(kSharedFloats, std::numeric_limits<float>::quiet_NaN()) {
    fibers_.resize(shape.block_threads);
    for (int i = 0; i < shape.block_threads; ++i) Prepare(i);
  }

  void Run(std::mt19937* order) {
    std::vector<int> waiting(fibers_.size());
    std::iota(waiting.begin(), waiting.end(), 0);
    while (!waiting.empty()) {
      // One warp runs ahead as far as it can: then it meets what the others have not read yet.
      const int favoured = waiting[(*order)() % waiting.size()] / kWarpSize;
      std::vector<int> ahead;
      std::copy_if(waiting.begin(), waiting.end(), std::back_inserter(ahead),
                   [&](int i) { return i / kWarpSize == favoured; });
      while (RunOnce(&ahead, order)) {
      }
      std::erase_if(waiting, [&](int i) { return fibers_[i].has_ended; });
      if (!waiting.empty() && !RunOnce(&waiting, order)) {
        throw std::logic_error("block " + std::to_string(block_) + ": " + std::to_string(waiting.size()) +
                               " threads wait for others that have ended");
      }
    }
  }

  const GridShape& shape() const { return shape_; }
  int block() const { return block_; }
  float* shared() { return shared_.data(); }

  void Barrier(int index) {
    const int64_t mine = ++fibers_[index].barriers;
    ++events_;
    WaitUntil([&] { return AllOf(0, shape_.block_threads, [&](const Fiber& f) { return f.barriers >= mine; }); });
  }

  float ShuffleXor(int index, float value, int mask) {
    Fiber& own = fibers_[index];
    const auto turn = own.shuffles % 2;
    own.value[turn] = value;
    const int64_t mine = ++own.shuffles;
    ++events_;
    const int warp = index / kWarpSize * kWarpSize;
    WaitUntil([&] { return AllOf(warp, warp + kWarpSize, [&](const Fiber& f) { return f.shuffles >= mine; }); });
    return fibers_[index ^ mask].value[turn];
  }

 private:
  /// Lets each go on until it waits. False if none could.
  bool RunOnce(std::vector<int>* waiting, std::mt19937* order) {
    std::shuffle(waiting->begin(), waiting->end(), *order);
    const int64_t events = events_;
    for (const int i : *waiting) Resume(i);
    std::erase_if(*waiting, [&](int i) { return fibers_[i].has_ended; });
    return events_ != events;
  }

  struct Fiber {
    ucontext_t
        context;  // Enters the fiber; from then on it goes through `place`, as swapcontext costs two system calls.
    jmp_buf place;
    bool has_begun = false;
    bool has_ended = false;
    int64_t barriers = 0;
    int64_t shuffles = 0;
    float value[2];  // Of the last two shuffles: a thread may be one ahead of its warp.
  };

  void Prepare(int index) {
    Fiber& fiber = fibers_[index];
    getcontext(&fiber.context);
    fiber.context.uc_stack = {.ss_sp = stacks_ + index * kStackBytes, .ss_flags = 0, .ss_size = kStackBytes};
    fiber.context.uc_link = nullptr;
    const auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Enter), 2, static_cast<uint32_t>(address >> 32),
                static_cast<uint32_t>(address));
  }

  static void Enter(uint32_t high, uint32_t low) {
    auto* self = reinterpret_cast<EmulatedBlock*>(static_cast<uintptr_t>(high) << 32 | low);
    const int index = self->running_;
    EmulatedThread thread(self, index);
    self->body_(thread);
    self->fibers_[index].has_ended = true;
    ++self->events_;
    _longjmp(self->scheduler_, 1);
  }

  void Resume(int index) {
    running_ = index;
    Fiber& fiber = fibers_[index];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.has_begun) _longjmp(fiber.place, 1);
    fiber.has_begun = true;
    setcontext(&fiber.context);
  }

  template <typename Condition>
  void WaitUntil(const Condition& condition) {
    const int index = running_;
    do {  // At least once, so that the others' order is not that of the code.
      if (_setjmp(fibers_[index].place) == 0) _longjmp(scheduler_, 1);
    } while (!condition());
  }

  template <typename Condition>
  bool AllOf(int begin, int end, const Condition& condition) const {
    return std::all_of(fibers_.begin() + begin, fibers_.begin() + end, condition);
  }

  GridShape shape_;
  int block_;
  const std::function<void(EmulatedThread&)>& body_;
  char* stacks_;
  std::vector<float> shared_;
  std::vector<Fiber> fibers_;
  jmp_buf scheduler_;
  int running_ = 0;
  int64_t events_ = 0;
};

int EmulatedThread::block_size() const { return owner_->shape().block_threads; }
int EmulatedThread::block() const { return owner_->block(); }
int EmulatedThread::num_blocks() const { return owner_->shape().blocks; }
float* EmulatedThread::shared() const { return owner_->shared(); }
void EmulatedThread::Barrier() { owner_->Barrier(index_); }
float EmulatedThread::ShuffleXor(float value, int mask) { return owner_->ShuffleXor(index_, value, mask); }

void RunGrid(const GridShape& shape, uint32_t seed, const std::function<void(EmulatedThread&)>& body) {
  std::mt19937 order(seed);
  const std::unique_ptr<char[]> stacks(new char[shape.block_threads * EmulatedBlock::kStackBytes]);
  for (int block = 0; block < shape.blocks; ++block) EmulatedBlock(shape, block, body, stacks.get()).Run(&order);
}

}  // namespace normlab::trainer::cuda
