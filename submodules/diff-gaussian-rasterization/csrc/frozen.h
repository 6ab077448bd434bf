// The flag that stops every operator which updates state: int32 [1], set once something went wrong.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace raster {

inline void check_frozen(const char* op, const std::optional<at::Tensor>& frozen,
                         at::Device device) {
  TORCH_CHECK(!frozen || (frozen->scalar_type() == at::kInt && frozen->dim() == 1 &&
                          frozen->size(0) == 1 && frozen->device() == device),
              op, ": frozen must be int32 [1] on ", device, ", got ", frozen->scalar_type(), " ",
              frozen->sizes(), " on ", frozen->device());
}

// Reads the flag on the host: for tensors on the CPU only.
inline bool is_frozen(const std::optional<at::Tensor>& frozen) {
  return frozen && *frozen->const_data_ptr<int32_t>() != 0;
}

}  // namespace raster
