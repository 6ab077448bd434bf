// Real spherical harmonics up to degree 3 at one direction; signs as 3DGS stores them.
#pragma once

namespace raster::cuda {

constexpr int kMaxBasis = 16;

__host__ __device__ constexpr int basis_count(int degree) { return (degree + 1) * (degree + 1); }

namespace sh {
constexpr float k0 = 0.28209479177387814f, k1 = 0.4886025119029199f;
constexpr float k2 = 1.0925484305920792f, k20 = 0.31539156525252005f, k22 = 0.5462742152960396f;
constexpr float k30 = 0.3731763325901154f, k31 = 0.4570457994644658f, k32 = 2.890611442640554f;
constexpr float k32b = 1.445305721320277f, k33 = 0.5900435899266435f;
}  // namespace sh

// Values of the basis at a unit direction; those above `degree` are left as they are.
__device__ inline void harmonics(int degree, float3 d, float* b) {
  const float x = d.x, y = d.y, z = d.z;
  b[0] = sh::k0;
  if (degree < 1) return;
  b[1] = -sh::k1 * y, b[2] = sh::k1 * z, b[3] = -sh::k1 * x;
  if (degree < 2) return;
  const float xx = x * x, yy = y * y, zz = z * z;
  b[4] = sh::k2 * (x * y);
  b[5] = -sh::k2 * (y * z);
  b[6] = sh::k20 * (2 * zz - xx - yy);
  b[7] = -sh::k2 * (x * z);
  b[8] = sh::k22 * (xx - yy);
  if (degree < 3) return;
  b[9] = -sh::k33 * y * (3 * xx - yy);
  b[10] = sh::k32 * (x * y * z);
  b[11] = -sh::k31 * y * (4 * zz - xx - yy);
  b[12] = sh::k30 * z * (2 * zz - 3 * (xx + yy));
  b[13] = -sh::k31 * x * (4 * zz - xx - yy);
  b[14] = sh::k32b * z * (xx - yy);
  b[15] = -sh::k33 * x * (xx - 3 * yy);
}

// Gradient of sum_k w[k] basis_k with respect to the direction, its three numbers taken as free.
__device__ inline float3 harmonics_backward(int degree, float3 d, const float* w) {
  const float x = d.x, y = d.y, z = d.z;
  float3 g{-sh::k1 * w[3], -sh::k1 * w[1], sh::k1 * w[2]};
  if (degree < 2) return g;
  const float c20 = 2 * sh::k20, c22 = 2 * sh::k22;
  g.x += sh::k2 * (w[4] * y - w[7] * z) + x * (c22 * w[8] - c20 * w[6]);
  g.y += sh::k2 * (w[4] * x - w[5] * z) - y * (c22 * w[8] + c20 * w[6]);
  g.z += -sh::k2 * (w[5] * y + w[7] * x) + 2 * c20 * w[6] * z;
  if (degree < 3) return g;
  const float xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  const float w9 = sh::k33 * w[9], w10 = sh::k32 * w[10], w11 = sh::k31 * w[11],
              w12 = sh::k30 * w[12], w13 = sh::k31 * w[13], w14 = sh::k32b * w[14],
              w15 = sh::k33 * w[15];
  const float edge = 3 * (xx - yy), diagonal = 4 * zz - xx - yy;
  g.x += -w9 * 6 * xy + w10 * yz + w11 * 2 * xy - w12 * 6 * xz - w13 * (diagonal - 2 * xx) +
         w14 * 2 * xz - w15 * edge;
  g.y += -w9 * edge + w10 * xz - w11 * (diagonal - 2 * yy) - w12 * 6 * yz + w13 * 2 * xy -
         w14 * 2 * yz + w15 * 6 * xy;
  g.z += w10 * xy - w11 * 8 * yz + w12 * (6 * zz - 3 * (xx + yy)) - w13 * 8 * xz + w14 * (xx - yy);
  return g;
}

}  // namespace raster::cuda
