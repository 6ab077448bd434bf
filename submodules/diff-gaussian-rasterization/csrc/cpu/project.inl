// Projection of Gaussians into cameras, a vector of them at a time, forward and backward (EWA
// splatting, as in the 3DGS paper).

namespace {

// N rows of `width` floats, turned so that each column is a vector; rows past `count` repeat the
// last.
template <int Width>
struct Columns {
  alignas(64) float at[Width][kLanes];
  F operator[](int column) const { return load(at[column]); }
  void read(const float* rows, int count) {
    for (int i = 0; i < kLanes; ++i) {
      const float* row = rows + int64_t(i < count ? i : count - 1) * Width;
      for (int k = 0; k < Width; ++k) at[k][i] = row[k];
    }
  }
  void write(float* rows, int count) const {
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < Width; ++k) rows[int64_t(i) * Width + k] = at[k][i];
  }
  void set(int column, F value) { store(at[column], value); }
};

struct Gaussians {
  F mean[3], opacity, R[3][3], M[3][3], scale[3], quat[4], inverse_norm;
  F sigma[3][3];  // covariance in the world, in the backward or when given
};

inline F dot3(F a0, F a1, F a2, F b0, F b1, F b2) { return fma(a0, b0, fma(a1, b1, a2 * b2)); }

// Reads Gaussians [i, i + count); false when one holds a value that is not finite.
inline bool read_gaussians(const raster::ProjectInputs& in, int64_t i, int count, bool with_sigma,
                           Gaussians& g) {
  Columns<3> means, scales;
  Columns<4> quats;
  Columns<1> opacities;
  means.read(in.means + 3 * i, count);
  opacities.read(in.opacities + i, count);
  const F zero = set1(0.0f), one = set1(1.0f), two = set1(2.0f);
  F check = opacities[0] * zero;
  for (int k = 0; k < 3; ++k) g.mean[k] = means[k], check = check + g.mean[k] * zero;
  g.opacity = opacities[0];
  if (in.covariances) {
    Columns<6> c;
    c.read(in.covariances + 6 * i, count);
    for (int k = 0; k < 6; ++k) check = check + c[k] * zero;
    const F full[3][3] = {{c[0], c[1], c[2]}, {c[1], c[3], c[4]}, {c[2], c[4], c[5]}};
    for (int r = 0; r < 3; ++r)
      for (int k = 0; k < 3; ++k) g.sigma[r][k] = full[r][k];
    return bits(ge(zero, check)) == (1u << kLanes) - 1;
  }
  quats.read(in.quats + 4 * i, count);
  scales.read(in.scales + 3 * i, count);
  F n2 = set1(1e-36f);  // a zero quaternion stays zero, which turns nothing
  for (int k = 0; k < 4; ++k) n2 = fma(quats[k], quats[k], n2), check = check + quats[k] * zero;
  g.inverse_norm = one / sqrt(n2);
  for (int k = 0; k < 4; ++k) g.quat[k] = quats[k] * g.inverse_norm;
  const F w = g.quat[0], x = g.quat[1], y = g.quat[2], z = g.quat[3];
  g.R[0][0] = one - two * (y * y + z * z), g.R[0][1] = two * (x * y - w * z),
  g.R[0][2] = two * (x * z + w * y);
  g.R[1][0] = two * (x * y + w * z), g.R[1][1] = one - two * (x * x + z * z),
  g.R[1][2] = two * (y * z - w * x);
  g.R[2][0] = two * (x * z - w * y), g.R[2][1] = two * (y * z + w * x),
  g.R[2][2] = one - two * (x * x + y * y);
  for (int k = 0; k < 3; ++k) {
    g.scale[k] = scales[k];
    check = check + scales[k] * zero;
    for (int r = 0; r < 3; ++r) g.M[r][k] = g.R[r][k] * g.scale[k];
  }
  if (with_sigma)
    for (int r = 0; r < 3; ++r)
      for (int k = 0; k < 3; ++k)
        g.sigma[r][k] = dot3(g.M[r][0], g.M[r][1], g.M[r][2], g.M[k][0], g.M[k][1], g.M[k][2]);
  return bits(ge(zero, check)) == (1u << kLanes) - 1;
}

inline int64_t first_bad(const raster::ProjectInputs& in, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    float check = in.opacities[i] * 0;
    for (int k = 0; k < 3; ++k) check += in.means[3 * i + k] * 0;
    for (int k = 0; k < 6 && in.covariances; ++k) check += in.covariances[6 * i + k] * 0;
    for (int k = 0; k < 4 && in.quats; ++k) check += in.quats[4 * i + k] * 0;
    for (int k = 0; k < 3 && in.scales; ++k) check += in.scales[3 * i + k] * 0;
    if (!(check == 0)) return i;
  }
  return -1;
}

// What one camera makes of them; needed forward and backward.
struct Views {
  F x, y, z, rz;     // centre in the camera's frame
  F u, v;            // x/z and y/z after the clamp
  M free_u, free_v;  // not clamped
  F T[2][3];         // Jacobian times rotation
  F xx, xy, yy;      // 2D covariance without the low-pass filter
  F det_raw, det;    // determinants without and with it
};

inline Views look(const raster::ProjectInputs& in, const raster::Camera& cam, const Gaussians& g) {
  Views o;
  F R[9];
  for (int k = 0; k < 9; ++k) R[k] = set1(cam.rotation[k]);
  const F one = set1(1.0f), zero = set1(0.0f);
  o.x = dot3(R[0], R[1], R[2], g.mean[0], g.mean[1], g.mean[2]) + set1(cam.translation[0]);
  o.y = dot3(R[3], R[4], R[5], g.mean[0], g.mean[1], g.mean[2]) + set1(cam.translation[1]);
  o.z = dot3(R[6], R[7], R[8], g.mean[0], g.mean[1], g.mean[2]) + set1(cam.translation[2]);
  // Rows at or behind the near plane are masked later; until then they must not divide by zero.
  const M ahead = lt(set1(1e-8f), o.z);
  o.rz = one / select(ahead, o.z, one);
  const F u = o.x * o.rz, v = o.y * o.rz;
  o.u = clamp(u, set1(cam.min_u), set1(cam.max_u));
  o.v = clamp(v, set1(cam.min_v), set1(cam.max_v));
  o.free_u = both(ge(u, set1(cam.min_u)), ge(set1(cam.max_u), u));
  o.free_v = both(ge(v, set1(cam.min_v)), ge(set1(cam.max_v), v));
  const F jx = set1(cam.fx) * o.rz, jy = set1(cam.fy) * o.rz;
  for (int k = 0; k < 3; ++k) {
    o.T[0][k] = jx * fnma(o.u, R[6 + k], R[k]);
    o.T[1][k] = jy * fnma(o.v, R[6 + k], R[3 + k]);
  }
  const F eps = set1(in.eps2d);
  F a[2][3];
  if (in.covariances) {
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < 3; ++k)
        a[r][k] =
            dot3(o.T[r][0], o.T[r][1], o.T[r][2], g.sigma[0][k], g.sigma[1][k], g.sigma[2][k]);
    o.xx = dot3(a[0][0], a[0][1], a[0][2], o.T[0][0], o.T[0][1], o.T[0][2]);
    o.xy = dot3(a[0][0], a[0][1], a[0][2], o.T[1][0], o.T[1][1], o.T[1][2]);
    o.yy = dot3(a[1][0], a[1][1], a[1][2], o.T[1][0], o.T[1][1], o.T[1][2]);
    o.det_raw = max(fnma(o.xy, o.xy, o.xx * o.yy), zero);
  } else {
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < 3; ++k)
        a[r][k] = dot3(o.T[r][0], o.T[r][1], o.T[r][2], g.M[0][k], g.M[1][k], g.M[2][k]);
    o.xx = dot3(a[0][0], a[0][1], a[0][2], a[0][0], a[0][1], a[0][2]);
    o.xy = dot3(a[0][0], a[0][1], a[0][2], a[1][0], a[1][1], a[1][2]);
    o.yy = dot3(a[1][0], a[1][1], a[1][2], a[1][0], a[1][1], a[1][2]);
    // Lagrange's identity: the determinant of A A^T without the cancellation of xx yy - xy^2.
    const F c0 = fnma(a[0][2], a[1][1], a[0][1] * a[1][2]);
    const F c1 = fnma(a[0][0], a[1][2], a[0][2] * a[1][0]);
    const F c2 = fnma(a[0][1], a[1][0], a[0][0] * a[1][1]);
    o.det_raw = dot3(c0, c1, c2, c0, c1, c2);
  }
  o.det = fma(eps, o.xx + o.yy + eps, o.det_raw);
  return o;
}

// Unit directions from the camera to the centres.
inline Direction directions(const raster::Camera& cam, const Gaussians& g, F& inverse_length) {
  const F x = g.mean[0] - set1(cam.position[0]), y = g.mean[1] - set1(cam.position[1]),
          z = g.mean[2] - set1(cam.position[2]);
  inverse_length = set1(1.0f) / sqrt(max(dot3(x, y, z, x, y, z), set1(1e-36f)));
  return {x * inverse_length, y * inverse_length, z * inverse_length};
}

typedef float Float4 __attribute__((vector_size(16), aligned(4)));

// sum_k basis[k][lane] coefficient[k], three channels at once; may read one float past a
// coefficient that another follows.
inline void shade(const raster::ProjectInputs& in, int64_t i, int lane, const F* basis,
                  float* rgb) {
  const float* values = reinterpret_cast<const float*>(basis) + lane;
  const float* dc = in.sh0 + i * in.sh0_stride;
  const float* rest = in.shN + i * in.shN_stride - 3;
  const int n = basis_count(in.sh_degree);
  const float b0 = values[0];
  Float4 sum = {b0 * dc[0] + 0.5f, b0 * dc[1] + 0.5f, b0 * dc[2] + 0.5f, 0.0f};
  for (int k = 1; k < n - 1; ++k)
    sum += values[k * kLanes] * *reinterpret_cast<const Float4*>(rest + 3 * k);
  if (n > 1) {
    const float* last = rest + 3 * (n - 1);
    const float b = values[(n - 1) * kLanes];
    sum += Float4{b * last[0], b * last[1], b * last[2], 0.0f};
  }
  for (int d = 0; d < 3; ++d) rgb[d] = sum[d] <= 0 ? 0.0f : sum[d];
}

int64_t project(const raster::ProjectInputs& in, const raster::Projected& out, int64_t begin,
                int64_t end) {
  const F zero = set1(0.0f), one = set1(1.0f), half = set1(0.5f), eps = set1(in.eps2d);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int count = int(end - i < kLanes ? end - i : kLanes);
    Gaussians g;
    if (!read_gaussians(in, i, count, false, g)) return first_bad(in, i, i + count);
    for (int64_t c = 0; c < in.num_cameras; ++c) {
      const raster::Camera& cam = in.cameras[c];
      const int64_t row = c * in.num_gaussians + i;
      const Views o = look(in, cam, g);
      F opacity = g.opacity;
      if (in.antialiased) opacity = opacity * sqrt(o.det_raw / max(o.det, set1(1e-30f)));
      M seen = both(lt(set1(in.near_plane), o.z), lt(o.z, set1(in.far_plane)));
      seen = both(seen, both(ge(opacity, set1(raster::kMinAlpha)),
                             both(lt(zero, o.det), lt(o.det, set1(1e30f)))));
      const F xx = o.xx + eps, yy = o.yy + eps;
      const F x = fma(set1(cam.fx), o.x * o.rz, set1(cam.cx)),
              y = fma(set1(cam.fy), o.y * o.rz, set1(cam.cy));
      const F reach = set1(2.0f * 0.69314718f) * log2_above(opacity * set1(255.0f));
      const F hx = sqrt(max(reach * xx, zero)), hy = sqrt(max(reach * yy, zero));
      seen = both(seen, both(lt(zero, x + hx), lt(x - hx, set1(float(in.width)))));
      seen = both(seen, both(lt(zero, y + hy), lt(y - hy, set1(float(in.height)))));
      const F mid = half * (xx + yy);
      const F largest = mid + sqrt(max(fnma(one, o.det, mid * mid), zero));
      const F inverse = one / select(seen, o.det, one);
      Columns<2> means2d;
      Columns<3> conics;
      Columns<1> radii;
      means2d.set(0, keep(seen, x)), means2d.set(1, keep(seen, y));
      conics.set(0, keep(seen, yy * inverse));
      conics.set(1, keep(seen, (zero - o.xy) * inverse));
      conics.set(2, keep(seen, xx * inverse));
      radii.set(0, keep(seen, set1(3.0f) * sqrt(largest)));
      means2d.write(out.means2d + 2 * row, count);
      conics.write(out.conics + 3 * row, count);
      Columns<1> column;
      column.set(0, keep(seen, o.z));
      column.write(out.depths + row, count);
      column.set(0, keep(seen, opacity));
      column.write(out.opacities + row, count);
      for (int lane = 0; lane < count; ++lane) {
        const float r = radii.at[0][lane];
        out.radii[row + lane] = r < 1e9f ? int32_t(r) + (r > float(int32_t(r))) : 1000000000;
      }
      if (!out.colors) continue;
      uint32_t lanes = bits(seen) & ((1u << count) - 1);
      for (int k = 0; k < 3 * count; ++k) out.colors[3 * row + k] = 0;
      if (!lanes) continue;
      F inverse_length, basis[kMaxBasis];
      const Direction d = directions(cam, g, inverse_length);
      harmonics(in.sh_degree, d.x, d.y, d.z, basis);
      for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        shade(in, i + lane, lane, basis, out.colors + 3 * (row + lane));
      }
    }
  }
  return -1;
}

// One camera's gradient with respect to the 2D covariance [xx, xy, yy] and to the opacity.
struct Flat {
  F xx, xy, yy, opacity;
};

inline Flat flat_gradient(const raster::ProjectInputs& in, const raster::ProjectGradients& up,
                          const Gaussians& g, const Views& o, int64_t row, int count, M seen) {
  Columns<3> conics, v_conics;
  Columns<1> v_opacities;
  conics.read(up.projected_conics + 3 * row, count);
  v_conics.read(up.conics + 3 * row, count);
  v_opacities.read(up.opacities + row, count);
  // conic = inverse(cov), so dL/dcov = -conic dL/dconic conic, with half the cross term on each
  // side.
  const F A = conics[0], B = conics[1], C = conics[2], zero = set1(0.0f);
  const F ga = keep(seen, v_conics[0]), gb = keep(seen, set1(0.5f) * v_conics[1]),
          gc = keep(seen, v_conics[2]);
  const F p = fma(A, ga, B * gb), q = fma(A, gb, B * gc), r = fma(B, ga, C * gb),
          s = fma(B, gb, C * gc);
  Flat f;
  f.xx = zero - fma(p, A, q * B);
  f.xy = zero - fma(p, B, q * C);
  f.yy = zero - fma(r, B, s * C);
  f.opacity = keep(seen, v_opacities[0]);
  if (!in.antialiased) return f;
  const F ratio = o.det_raw / max(o.det, set1(1e-30f)), rho = sqrt(ratio), eps = set1(in.eps2d);
  const M some = both(seen, lt(zero, rho));
  const F k =
      keep(some, set1(0.5f) * f.opacity * g.opacity / select(some, rho * o.det, set1(1.0f)));
  f.opacity = f.opacity * rho;
  f.xx = fma(k, fnma(ratio, o.yy + eps, o.yy), f.xx);
  f.xy = fma(k, o.xy * (ratio - set1(1.0f)), f.xy);
  f.yy = fma(k, fnma(ratio, o.xx + eps, o.xx), f.yy);
  return f;
}

struct Sums {
  F mean[3], M[3][3], sigma[6], opacity;
};

// Adds one camera's geometry gradient to the sums.
inline void geometry_backward(const raster::ProjectInputs& in, const raster::ProjectGradients& up,
                              const raster::Camera& cam, const Gaussians& g, int64_t row, int count,
                              M seen, Sums& sums) {
  const Views o = look(in, cam, g);
  const Flat f = flat_gradient(in, up, g, o, row, count, seen);
  const F two = set1(2.0f);
  sums.opacity = sums.opacity + f.opacity;
  F VT[2][3], v_T[2][3], W[3][3];  // V T; dL/dT = 2 V T Sigma; dL/dSigma = T^T V T
  for (int k = 0; k < 3; ++k) {
    VT[0][k] = fma(f.xx, o.T[0][k], f.xy * o.T[1][k]);
    VT[1][k] = fma(f.xy, o.T[0][k], f.yy * o.T[1][k]);
  }
  for (int r = 0; r < 2; ++r)
    for (int k = 0; k < 3; ++k)
      v_T[r][k] =
          two * dot3(VT[r][0], VT[r][1], VT[r][2], g.sigma[0][k], g.sigma[1][k], g.sigma[2][k]);
  for (int r = 0; r < 3; ++r)
    for (int k = 0; k < 3; ++k) W[r][k] = fma(o.T[0][r], VT[0][k], o.T[1][r] * VT[1][k]);
  if (in.covariances) {
    const F upper[6] = {W[0][0], two * W[0][1], two * W[0][2], W[1][1], two * W[1][2], W[2][2]};
    for (int k = 0; k < 6; ++k) sums.sigma[k] = sums.sigma[k] + keep(seen, upper[k]);
  } else {
    for (int r = 0; r < 3; ++r)
      for (int k = 0; k < 3; ++k)
        sums.M[r][k] = sums.M[r][k] + keep(seen, two * dot3(W[r][0], W[r][1], W[r][2], g.M[0][k],
                                                            g.M[1][k], g.M[2][k]));
  }
  // T = J R: the four entries of J that are not zero.
  F R[9];
  for (int k = 0; k < 9; ++k) R[k] = set1(cam.rotation[k]);
  const F j00 = dot3(v_T[0][0], v_T[0][1], v_T[0][2], R[0], R[1], R[2]);
  const F j02 = dot3(v_T[0][0], v_T[0][1], v_T[0][2], R[6], R[7], R[8]);
  const F j11 = dot3(v_T[1][0], v_T[1][1], v_T[1][2], R[3], R[4], R[5]);
  const F j12 = dot3(v_T[1][0], v_T[1][1], v_T[1][2], R[6], R[7], R[8]);
  Columns<2> v_means2d;
  Columns<1> v_depths;
  v_means2d.read(up.means2d + 2 * row, count);
  v_depths.read(up.depths + row, count);
  const F fx = set1(cam.fx), fy = set1(cam.fy), rz2 = o.rz * o.rz;
  const F v_u = fx * (v_means2d[0] - keep(o.free_u, o.rz * j02)),
          v_v = fy * (v_means2d[1] - keep(o.free_v, o.rz * j12));
  const F px = v_u * o.rz, py = v_v * o.rz;
  const F along = fma(v_u, o.x, v_v * o.y) + fma(fx, fnma(o.u, j02, j00), fy * fnma(o.v, j12, j11));
  const F pz = fnma(along, rz2, v_depths[0]);
  for (int k = 0; k < 3; ++k)
    sums.mean[k] = sums.mean[k] + keep(seen, dot3(R[k], R[3 + k], R[6 + k], px, py, pz));
}

// Writes the gradients of SH coefficients and adds the colour's part to the centres' gradient.
inline void colors_backward(const raster::ProjectInputs& in, const raster::ProjectGradients& up,
                            const raster::Camera& cam, const Gaussians& g, int64_t i, int64_t row,
                            uint32_t lanes, uint32_t& written, Sums& sums) {
  alignas(64) F basis[kMaxBasis], weights[kMaxBasis];
  F inverse_length;
  const int n = basis_count(in.sh_degree);
  const Direction d = directions(cam, g, inverse_length);
  harmonics(in.sh_degree, d.x, d.y, d.z, basis);
  for (int k = 0; k < n; ++k) weights[k] = set1(0.0f);
  const float* values = reinterpret_cast<const float*>(basis);
  float* weight = reinterpret_cast<float*>(weights);
  for (; lanes; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    const int64_t row_of = row + lane;
    float rgb[3];
    for (int c = 0; c < 3; ++c)
      rgb[c] = up.projected_colors[3 * row_of + c] > 0 ? up.colors[3 * row_of + c] : 0.0f;
    const float* rest = in.shN + (i + lane) * in.shN_stride - 3;
    float* v0 = up.v_sh0 + 3 * (i + lane);
    float* v = up.v_shN + 3 * up.num_rest * (i + lane) - 3;
    if (written >> lane & 1) {
      for (int c = 0; c < 3; ++c) v0[c] += values[lane] * rgb[c];
      for (int k = 1; k < n; ++k)
        for (int c = 0; c < 3; ++c) v[3 * k + c] += values[k * kLanes + lane] * rgb[c];
    } else {
      written |= 1u << lane;
      for (int c = 0; c < 3; ++c) v0[c] = values[lane] * rgb[c];
      for (int k = 1; k < n; ++k)
        for (int c = 0; c < 3; ++c) v[3 * k + c] = values[k * kLanes + lane] * rgb[c];
      for (int64_t k = n; k <= up.num_rest; ++k) v[3 * k] = v[3 * k + 1] = v[3 * k + 2] = 0;
    }
    if (up.geometry)
      for (int k = 1; k < n; ++k)
        weight[k * kLanes + lane] =
            rest[3 * k] * rgb[0] + rest[3 * k + 1] * rgb[1] + rest[3 * k + 2] * rgb[2];
  }
  if (!up.geometry || n == 1) return;
  const Direction v = harmonics_backward(in.sh_degree, d.x, d.y, d.z, weights);
  const F along = dot3(v.x, v.y, v.z, d.x, d.y, d.z);
  sums.mean[0] = fma(fnma(along, d.x, v.x), inverse_length, sums.mean[0]);
  sums.mean[1] = fma(fnma(along, d.y, v.y), inverse_length, sums.mean[1]);
  sums.mean[2] = fma(fnma(along, d.z, v.z), inverse_length, sums.mean[2]);
}

// From dL/d(rotation times scales) to scales and raw quaternions.
inline void shape_backward(const Gaussians& g, const Sums& sums, Columns<3>& v_scales,
                           Columns<4>& v_quats) {
  F V[3][3];
  for (int k = 0; k < 3; ++k) {
    v_scales.set(k,
                 dot3(sums.M[0][k], sums.M[1][k], sums.M[2][k], g.R[0][k], g.R[1][k], g.R[2][k]));
    for (int r = 0; r < 3; ++r) V[r][k] = sums.M[r][k] * g.scale[k];
  }
  const F w = g.quat[0], x = g.quat[1], y = g.quat[2], z = g.quat[3], two = set1(2.0f);
  const F s01 = V[0][1] + V[1][0], s02 = V[0][2] + V[2][0], s12 = V[1][2] + V[2][1];
  const F a01 = V[1][0] - V[0][1], a02 = V[0][2] - V[2][0], a12 = V[2][1] - V[1][2];
  const F q[4] = {two * dot3(x, y, z, a12, a02, a01),
                  two * (dot3(y, z, w, s01, s02, a12) - two * x * (V[1][1] + V[2][2])),
                  two * (dot3(x, z, w, s01, s12, a02) - two * y * (V[0][0] + V[2][2])),
                  two * (dot3(x, y, w, s02, s12, a01) - two * z * (V[0][0] + V[1][1]))};
  const F radial = fma(q[0], w, dot3(q[1], q[2], q[3], x, y, z));
  for (int k = 0; k < 4; ++k) v_quats.set(k, fnma(radial, g.quat[k], q[k]) * g.inverse_norm);
}

inline M seen_rows(const int32_t* radii, int count, uint32_t& lanes) {
  alignas(64) float seen[kLanes];
  lanes = 0;
  for (int i = 0; i < kLanes; ++i) {
    const bool is_seen = i < count && radii[i] > 0;
    seen[i] = is_seen ? 1.0f : 0.0f;
    lanes |= uint32_t(is_seen) << i;
  }
  return lt(set1(0.5f), load(seen));
}

void project_backward(const raster::ProjectInputs& in, const raster::ProjectGradients& up,
                      int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int count = int(end - i < kLanes ? end - i : kLanes);
    Gaussians g;
    read_gaussians(in, i, count, true, g);
    Sums sums;
    const F zero = set1(0.0f);
    sums.opacity = zero;
    for (F& s : sums.mean) s = zero;
    for (F& s : sums.sigma) s = zero;
    for (auto& row : sums.M)
      for (F& s : row) s = zero;
    uint32_t written = 0;
    for (int64_t c = 0; c < in.num_cameras; ++c) {
      const int64_t row = c * in.num_gaussians + i;
      uint32_t lanes;
      const M seen = seen_rows(up.radii + row, count, lanes);
      if (!lanes) continue;
      if (up.geometry) geometry_backward(in, up, in.cameras[c], g, row, count, seen, sums);
      if (up.v_sh0) colors_backward(in, up, in.cameras[c], g, i, row, lanes, written, sums);
    }
    for (int lane = 0; lane < count && up.v_sh0; ++lane) {
      if (written >> lane & 1) continue;
      for (int k = 0; k < 3; ++k) up.v_sh0[3 * (i + lane) + k] = 0;
      __builtin_memset(up.v_shN + 3 * up.num_rest * (i + lane), 0, sizeof(float) * 3 * up.num_rest);
    }
    if (!up.geometry) continue;
    Columns<3> v_means, v_scales;
    Columns<1> v_opacities;
    for (int k = 0; k < 3; ++k) v_means.set(k, sums.mean[k]);
    v_opacities.set(0, sums.opacity);
    v_means.write(up.v_means + 3 * i, count);
    v_opacities.write(up.v_opacities + i, count);
    if (in.covariances) {
      Columns<6> v_covariances;
      for (int k = 0; k < 6; ++k) v_covariances.set(k, sums.sigma[k]);
      v_covariances.write(up.v_covariances + 6 * i, count);
      continue;
    }
    Columns<4> v_quats;
    shape_backward(g, sums, v_scales, v_quats);
    v_scales.write(up.v_scales + 3 * i, count);
    v_quats.write(up.v_quats + 4 * i, count);
  }
}

}  // namespace
