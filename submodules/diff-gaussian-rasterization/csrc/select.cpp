// Torch's side of selection by rank: schema, checks, and torch's own way on the CPU.
#include "select.h"

#include <ATen/ops/kthvalue.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>

namespace raster {
namespace {

at::Tensor kth_smallest(const at::Tensor& values, int64_t k) {
  check_kth_smallest(values, k);
  return std::get<0>(at::kthvalue(values, k, 1));
}

}  // namespace

void check_kth_smallest(const at::Tensor& values, int64_t k) {
  TORCH_CHECK(values.scalar_type() == at::kFloat && values.dim() == 2,
              "kth_smallest: values must be float32 [C, n], got ", values.scalar_type(), " ",
              values.sizes());
  TORCH_CHECK(values.size(1) <= std::numeric_limits<int32_t>::max(),
              "kth_smallest: values must have fewer than 2^31 columns, got ", values.size(1));
  TORCH_CHECK(k >= 1 && k <= values.size(1), "kth_smallest: k must lie in [1, ", values.size(1),
              "], got ", k);
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def("kth_smallest(Tensor values, int k) -> Tensor");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) { m.impl("kth_smallest", &raster::kth_smallest); }
