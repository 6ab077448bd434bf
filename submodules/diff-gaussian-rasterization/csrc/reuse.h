// Tensors whose memory returns to this library when they die, and is used again by later calls.
#pragma once

#include <ATen/core/Tensor.h>

namespace raster {

// An uninitialised CPU tensor. A page's first touch costs several times its use on a virtual
// machine, and malloc gives large blocks back to the system at once, so that every training step
// would pay it; blocks of 1 MiB and more are therefore kept, at most as many bytes as were in use
// at the same time.
at::Tensor reused_empty(at::IntArrayRef shape, at::TensorOptions options);

}  // namespace raster
