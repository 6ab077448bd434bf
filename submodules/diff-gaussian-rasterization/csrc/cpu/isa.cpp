#include "isa.h"

#include <cstring>

#include "kernels.h"

namespace raster {

Isa isa() {
  static const Isa chosen = [] {
    const char* name = kernels().name;
    if (std::strcmp(name, "avx512") == 0) return Isa::avx512;
    if (std::strcmp(name, "avx2") == 0) return Isa::avx2;
    return std::strcmp(name, "sse42") == 0 ? Isa::sse42 : Isa::generic;
  }();
  return chosen;
}

}  // namespace raster
