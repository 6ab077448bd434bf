// What the kernels found out about the machine.
#include <torch/library.h>

#include <string>

#include "cpu/kernels.h"

TORCH_LIBRARY_FRAGMENT(twinsplat_raster, m) {
  m.def("instruction_set() -> str", [] { return std::string(raster::kernels().name); });
}
