// Real spherical harmonics up to degree 3, for a vector of directions; signs as 3DGS stores them.

namespace {

constexpr int kMaxBasis = 16;
constexpr float kSh0 = 0.28209479177387814f, kSh1 = 0.4886025119029199f;
constexpr float kSh2 = 1.0925484305920792f, kSh20 = 0.31539156525252005f,
                kSh22 = 0.5462742152960396f;
constexpr float kSh30 = 0.3731763325901154f, kSh31 = 0.4570457994644658f,
                kSh32 = 2.890611442640554f;
constexpr float kSh32b = 1.445305721320277f, kSh33 = 0.5900435899266435f;

inline int basis_count(int degree) { return (degree + 1) * (degree + 1); }

// Values of the basis at unit directions.
inline void harmonics(int degree, F x, F y, F z, F* b) {
  b[0] = set1(kSh0);
  if (degree < 1) return;
  b[1] = set1(-kSh1) * y, b[2] = set1(kSh1) * z, b[3] = set1(-kSh1) * x;
  if (degree < 2) return;
  const F xx = x * x, yy = y * y, zz = z * z, two = set1(2.0f), three = set1(3.0f),
          four = set1(4.0f);
  b[4] = set1(kSh2) * (x * y);
  b[5] = set1(-kSh2) * (y * z);
  b[6] = set1(kSh20) * (two * zz - xx - yy);
  b[7] = set1(-kSh2) * (x * z);
  b[8] = set1(kSh22) * (xx - yy);
  if (degree < 3) return;
  b[9] = set1(-kSh33) * y * (three * xx - yy);
  b[10] = set1(kSh32) * (x * y * z);
  b[11] = set1(-kSh31) * y * (four * zz - xx - yy);
  b[12] = set1(kSh30) * z * (two * zz - three * (xx + yy));
  b[13] = set1(-kSh31) * x * (four * zz - xx - yy);
  b[14] = set1(kSh32b) * z * (xx - yy);
  b[15] = set1(-kSh33) * x * (xx - three * yy);
}

struct Direction {
  F x, y, z;
};

// Gradient of sum_k w[k] basis_k with respect to the direction, its three numbers taken as free.
inline Direction harmonics_backward(int degree, F x, F y, F z, const F* w) {
  const F c1 = set1(kSh1);
  Direction g{set1(0.0f) - c1 * w[3], set1(0.0f) - c1 * w[1], c1 * w[2]};
  if (degree < 2) return g;
  const F two = set1(2.0f), three = set1(3.0f), four = set1(4.0f), six = set1(6.0f),
          eight = set1(8.0f);
  const F c2 = set1(kSh2), c20 = set1(2 * kSh20), c22 = set1(2 * kSh22);
  g.x = g.x + c2 * (w[4] * y - w[7] * z) + x * (c22 * w[8] - c20 * w[6]);
  g.y = g.y + c2 * (w[4] * x - w[5] * z) - y * (c22 * w[8] + c20 * w[6]);
  g.z = g.z - c2 * (w[5] * y + w[7] * x) + two * c20 * w[6] * z;
  if (degree < 3) return g;
  const F xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  const F w9 = set1(kSh33) * w[9], w10 = set1(kSh32) * w[10], w11 = set1(kSh31) * w[11],
          w12 = set1(kSh30) * w[12];
  const F w13 = set1(kSh31) * w[13], w14 = set1(kSh32b) * w[14], w15 = set1(kSh33) * w[15];
  const F edge = three * (xx - yy), diagonal = four * zz - xx - yy;
  g.x = g.x - w9 * six * xy + w10 * yz + w11 * two * xy - w12 * six * xz -
        w13 * (diagonal - two * xx) + w14 * two * xz - w15 * edge;
  g.y = g.y - w9 * edge + w10 * xz - w11 * (diagonal - two * yy) - w12 * six * yz + w13 * two * xy -
        w14 * two * yz + w15 * six * xy;
  g.z = g.z + w10 * xy - w11 * eight * yz + w12 * (six * zz - three * (xx + yy)) -
        w13 * eight * xz + w14 * (xx - yy);
  return g;
}

}  // namespace
