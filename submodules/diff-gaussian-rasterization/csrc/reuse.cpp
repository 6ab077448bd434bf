#include "reuse.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <vector>

namespace raster {
namespace {

constexpr int64_t kSmallest = int64_t(1) << 20;
constexpr int64_t kHugePage = int64_t(2) << 20;

struct Block {
  void* at;
  int64_t bytes;
};

class Pool {
 public:
  // The smallest kept block that fits without wasting more than half of itself, or a new one.
  Block take(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t best = kept_.size();
    for (size_t i = 0; i < kept_.size(); ++i) {
      const int64_t size = kept_[i].bytes;
      if (size >= bytes && size / 2 <= bytes && (best == kept_.size() || size < kept_[best].bytes))
        best = i;
    }
    Block block;
    if (best < kept_.size()) {
      block = kept_[best];
      kept_.erase(kept_.begin() + best);
      kept_bytes_ -= block.bytes;
    } else {
      // An eighth more, so that a set of Gaussians may grow without a new block each time.
      block.bytes = (bytes + bytes / 8 + kHugePage - 1) / kHugePage * kHugePage;
      block.at = std::aligned_alloc(kHugePage, block.bytes);
      TORCH_CHECK(block.at, "twinsplat_raster: cannot allocate ", block.bytes, " bytes");
#ifdef MADV_HUGEPAGE
      madvise(block.at, block.bytes, MADV_HUGEPAGE);
#endif
    }
    used_bytes_ += block.bytes;
    most_used_ = used_bytes_ > most_used_ ? used_bytes_ : most_used_;
    return block;
  }

  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_bytes_ -= block.bytes;
    kept_bytes_ += block.bytes;
    kept_.push_back(block);
    while (kept_bytes_ + used_bytes_ > most_used_ + most_used_ / 4) {  // the oldest go first
      std::free(kept_.front().at);
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Block> kept_;
  int64_t kept_bytes_ = 0, used_bytes_ = 0, most_used_ = 0;
};

Pool& pool() {
  static Pool* const p = new Pool;  // outlives every tensor
  return *p;
}

}  // namespace

at::Tensor reused_empty(at::IntArrayRef shape, at::TensorOptions options) {
  int64_t bytes = int64_t(options.dtype().itemsize());
  for (const int64_t n : shape) bytes *= n;
  if (bytes < kSmallest) return at::empty(shape, options);
  const Block block = pool().take(bytes);
  return at::from_blob(block.at, shape, [block](void*) { pool().give_back(block); }, options);
}

}  // namespace raster
