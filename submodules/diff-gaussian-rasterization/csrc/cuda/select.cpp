// Selection by rank on the GPU: torch's side of the kernels.
#include "../select.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <vector>

#include "kernels/select.h"

namespace raster::cuda {
namespace {

at::Tensor kth_smallest_cuda(at::TensorList values, at::IntArrayRef ks) {
  check_kth_smallest(values, ks);
  const c10::cuda::CUDAGuard guard(values[0].device());
  const int64_t sources = ks.size(), rows = values[0].size(0);
  TORCH_CHECK(rows < 65536, "kth_smallest: values may have up to 65535 rows on a GPU, got ", rows);
  TORCH_CHECK(sources <= kMostSources, "kth_smallest: there may be up to ", kMostSources,
              " values on a GPU, got ", sources);
  Select task{};
  task.num_sources = static_cast<int>(sources);
  task.num_rows = static_cast<int>(rows);
  task.num_columns = static_cast<int>(values[0].size(1));
  std::vector<at::Tensor> read;  // keeps copies alive
  for (int i = 0; i < task.num_sources; ++i) {
    read.push_back(values[i].contiguous());
    task.values[i] = read[i].const_data_ptr<float>();
    task.ranks[i] = static_cast<int>(ks[i] - 1);
  }
  const auto options = read[0].options();
  at::Tensor results = at::empty({sources, rows}, options);
  at::Tensor scratch = at::empty({sources, rows, sizeof(SelectRow)}, options.dtype(at::kByte));
  task.rows = reinterpret_cast<SelectRow*>(scratch.mutable_data_ptr());
  task.results = results.mutable_data_ptr<float>();
  select(task, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return results;
}

}  // namespace
}  // namespace raster::cuda

TORCH_LIBRARY_IMPL(twinsplat_raster, CUDA, m) {
  m.impl("kth_smallest", &raster::cuda::kth_smallest_cuda);
}
