// The learnt trust in every pixel, on the GPU; no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace raster::cuda {

// All pointers are device pointers to contiguous arrays. C photos of P pixels.
struct TrustTask {
  int num_photos, num_pixels;
  const float* logits;      // [C, P]
  const float* residual;    // [C, P]
  const float *low, *span;  // [C]: trust is wanted in full at `low`, none at `low + span`
  float sharpness;
  double* errors;  // [trust_blocks()] scratch
  float* value;    // [1] mean distance between the trust and what is wanted
  float* trust;    // [C, P] sigmoid(sharpness logits)
  float* slopes;   // [C, P] of `value` by `logits`
};

int trust_blocks(const TrustTask&);

void trust(const TrustTask&, cudaStream_t);

// Adam on rows of a bank of V photos.
struct TrustStep {
  int num_rows, num_pixels;              // C, P
  const int64_t* rows;                   // [C]; a row that is there twice learns once, from both
  const float* gradient;                 // [C, P]
  float *logits, *exp_avg, *exp_avg_sq;  // [V, P]
  int64_t* num_updates;                  // [V]
  const float* rates;                    // [num_rates, 2] step size and root scale of each update
  int num_rates;                         // the last holds for all later ones
  float to_mean, beta2, to_square, eps;
  float most;             // logits stay within [-most, most]
  const int32_t* frozen;  // nothing is written where it is not 0; or null
};

void trust_step(const TrustStep&, cudaStream_t);

}  // namespace raster::cuda
