// Torch's side of selection by rank: schema, checks, and torch's own way on the CPU.
#include "select.h"

#include <ATen/ops/kthvalue.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include <cstdint>
#include <limits>
#include <vector>

namespace raster {
namespace {

at::Tensor kth_smallest(at::TensorList values, at::IntArrayRef ks) {
  check_kth_smallest(values, ks);
  std::vector<at::Tensor> found;
  for (size_t i = 0; i < ks.size(); ++i) {
    found.push_back(std::get<0>(at::kthvalue(values[i], ks[i], 1)));
  }
  return at::stack(found);
}

}  // namespace

void check_kth_smallest(at::TensorList values, at::IntArrayRef ks) {
  TORCH_CHECK(!values.empty() && values.size() == ks.size(),
              "kth_smallest: there must be a k for each of at least one values, got ", ks.size(),
              " and ", values.size());
  for (const at::Tensor& one : values) {
    TORCH_CHECK(one.scalar_type() == at::kFloat && one.dim() == 2,
                "kth_smallest: values must be float32 [C, n], got ", one.scalar_type(), " ",
                one.sizes());
    TORCH_CHECK(one.sizes() == values[0].sizes() && one.device() == values[0].device(),
                "kth_smallest: values must all be ", values[0].sizes(), " on ", values[0].device(),
                ", got ", one.sizes(), " on ", one.device());
  }
  const int64_t columns = values[0].size(1);
  TORCH_CHECK(columns <= std::numeric_limits<int32_t>::max(),
              "kth_smallest: values must have fewer than 2^31 columns, got ", columns);
  for (int64_t k : ks) {
    TORCH_CHECK(k >= 1 && k <= columns, "kth_smallest: k must lie in [1, ", columns, "], got ", k);
  }
}

}  // namespace raster

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def("kth_smallest(Tensor[] values, int[] ks) -> Tensor");
}

TORCH_LIBRARY_IMPL(twinsplat_raster, CPU, m) { m.impl("kth_smallest", &raster::kth_smallest); }
