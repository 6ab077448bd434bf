// One thread per Gaussian, a loop over cameras (EWA splatting, as in the 3DGS paper).
//
// Coefficients of the harmonics go through shared memory, so that device memory is read and
// written in whole lines: a row of 45 floats per thread would touch 32 lines per instruction.
#include <type_traits>

#include "harmonics.cuh"
#include "project.h"

namespace raster::cuda {
namespace {

constexpr int kThreads = 64;
constexpr float kMinAlpha = 1.0f / 255.0f;
constexpr float kMargin = 0.15f;  // of the image, outside which the Jacobian is held
constexpr unsigned kAll = 0xffffffffu;

struct Camera {
  float rotation[9];
  float translation[3];
  float position[3];  // camera centre in the world
  float fx, fy, cx, cy;
  float min_u, max_u, min_v, max_v;  // clamp of x/z and y/z inside the Jacobian
};

__device__ Camera camera_of(const ProjectInputs& in, int c) {
  const float* m = in.viewmats + 16 * c;
  const float* K = in.Ks + 9 * c;
  Camera cam;
  for (int r = 0; r < 3; ++r) {
    for (int i = 0; i < 3; ++i) cam.rotation[3 * r + i] = m[4 * r + i];
    cam.translation[r] = m[4 * r + 3];
  }
  for (int i = 0; i < 3; ++i) cam.position[i] = -(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]);
  cam.fx = K[0], cam.fy = K[4], cam.cx = K[2], cam.cy = K[5];
  cam.min_u = (-kMargin * in.width - cam.cx) / cam.fx;
  cam.max_u = ((1 + kMargin) * in.width - cam.cx) / cam.fx;
  cam.min_v = (-kMargin * in.height - cam.cy) / cam.fy;
  cam.max_v = ((1 + kMargin) * in.height - cam.cy) / cam.fy;
  return cam;
}

struct Gaussian {
  float mean[3], opacity;
  float M[3][3];  // rotation times scales; when covariances are given, the covariance
};

__device__ float dot3(const float* a, const float* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// A rotation, and the quaternion that it was made from.
struct Turn {
  float quat[4], inverse_norm, R[3][3];
};

__device__ Turn turn_of(const float* quat) {
  Turn t;
  float n2 = 1e-36f;  // a zero quaternion stays zero, which turns nothing
  for (int k = 0; k < 4; ++k) n2 += quat[k] * quat[k];
  t.inverse_norm = 1.0f / sqrtf(n2);
  for (int k = 0; k < 4; ++k) t.quat[k] = quat[k] * t.inverse_norm;
  const float w = t.quat[0], x = t.quat[1], y = t.quat[2], z = t.quat[3];
  t.R[0][0] = 1 - 2 * (y * y + z * z), t.R[0][1] = 2 * (x * y - w * z),
  t.R[0][2] = 2 * (x * z + w * y);
  t.R[1][0] = 2 * (x * y + w * z), t.R[1][1] = 1 - 2 * (x * x + z * z),
  t.R[1][2] = 2 * (y * z - w * x);
  t.R[2][0] = 2 * (x * z - w * y), t.R[2][1] = 2 * (y * z + w * x),
  t.R[2][2] = 1 - 2 * (x * x + y * y);
  return t;
}

__device__ BadInput read_gaussian(const ProjectInputs& in, int i, Gaussian& g) {
  BadInput bad = BadInput::none;
  const auto demand = [&bad](float x, BadInput which) {
    if (!isfinite(x) && bad == BadInput::none) bad = which;
  };
  for (int k = 0; k < 3; ++k) {
    g.mean[k] = in.means[3 * int64_t(i) + k];
    demand(g.mean[k], BadInput::means);
  }
  g.opacity = in.opacities[i];
  if (in.covariances) {
    float c[6];
    for (int k = 0; k < 6; ++k) {
      c[k] = in.covariances[6 * int64_t(i) + k];
      demand(c[k], BadInput::covariances);
    }
    g.M[0][0] = c[0], g.M[0][1] = g.M[1][0] = c[1], g.M[0][2] = g.M[2][0] = c[2];
    g.M[1][1] = c[3], g.M[1][2] = g.M[2][1] = c[4], g.M[2][2] = c[5];
  } else {
    const float4 quat = reinterpret_cast<const float4*>(in.quats)[i];
    const float q[4] = {quat.x, quat.y, quat.z, quat.w};
    for (int k = 0; k < 4; ++k) demand(q[k], BadInput::quats);
    const Turn turn = turn_of(q);
    for (int k = 0; k < 3; ++k) {
      const float scale = in.scales[3 * int64_t(i) + k];
      demand(scale, BadInput::scales);
      for (int r = 0; r < 3; ++r) g.M[r][k] = turn.R[r][k] * scale;
    }
  }
  demand(g.opacity, BadInput::opacities);
  return bad;
}

// What one camera makes of it; needed forward and backward.
struct View {
  float x, y, z, rz;    // centre in the camera's frame
  float u, v;           // x/z and y/z after the clamp
  bool free_u, free_v;  // not clamped
  float T[2][3];        // Jacobian times rotation
  float a[2][3];        // T times Gaussian::M
  float xx, xy, yy;     // 2D covariance without the low-pass filter
  float det_raw, det;   // determinants without and with it
};

__device__ View look(const ProjectInputs& in, const Camera& cam, const Gaussian& g) {
  View o;
  const float* R = cam.rotation;
  o.x = dot3(R, g.mean) + cam.translation[0];
  o.y = dot3(R + 3, g.mean) + cam.translation[1];
  o.z = dot3(R + 6, g.mean) + cam.translation[2];
  // Rows at or behind the near plane are dropped later; until then they must not divide by zero.
  o.rz = 1.0f / (o.z > 1e-8f ? o.z : 1.0f);
  const float u = o.x * o.rz, v = o.y * o.rz;
  o.u = fminf(fmaxf(u, cam.min_u), cam.max_u);
  o.v = fminf(fmaxf(v, cam.min_v), cam.max_v);
  o.free_u = u >= cam.min_u && u <= cam.max_u;
  o.free_v = v >= cam.min_v && v <= cam.max_v;
  const float jx = cam.fx * o.rz, jy = cam.fy * o.rz;
  for (int k = 0; k < 3; ++k) {
    o.T[0][k] = jx * (R[k] - o.u * R[6 + k]);
    o.T[1][k] = jy * (R[3 + k] - o.v * R[6 + k]);
  }
  for (int r = 0; r < 2; ++r)
    for (int k = 0; k < 3; ++k)
      o.a[r][k] = o.T[r][0] * g.M[0][k] + o.T[r][1] * g.M[1][k] + o.T[r][2] * g.M[2][k];
  if (in.covariances) {
    o.xx = dot3(o.a[0], o.T[0]);
    o.xy = dot3(o.a[0], o.T[1]);
    o.yy = dot3(o.a[1], o.T[1]);
    o.det_raw = fmaxf(o.xx * o.yy - o.xy * o.xy, 0.0f);
  } else {
    o.xx = dot3(o.a[0], o.a[0]);
    o.xy = dot3(o.a[0], o.a[1]);
    o.yy = dot3(o.a[1], o.a[1]);
    // Lagrange's identity: the determinant of A A^T without the cancellation of xx yy - xy^2.
    const float c0 = o.a[0][1] * o.a[1][2] - o.a[0][2] * o.a[1][1];
    const float c1 = o.a[0][2] * o.a[1][0] - o.a[0][0] * o.a[1][2];
    const float c2 = o.a[0][0] * o.a[1][1] - o.a[0][1] * o.a[1][0];
    o.det_raw = c0 * c0 + c1 * c1 + c2 * c2;
  }
  o.det = in.eps2d * (o.xx + o.yy + in.eps2d) + o.det_raw;
  return o;
}

// The unit direction from the camera to the centre, and one over their distance.
__device__ float3 direction(const Camera& cam, const float* mean, float& inverse_length) {
  const float x = mean[0] - cam.position[0], y = mean[1] - cam.position[1],
              z = mean[2] - cam.position[2];
  inverse_length = 1.0f / sqrtf(fmaxf(x * x + y * y + z * z, 1e-36f));
  return {x * inverse_length, y * inverse_length, z * inverse_length};
}

// Floats of a Gaussian's higher coefficients that are in use, and of its row in shared memory: odd,
// so that the threads of a warp read their rows from different banks.
__host__ __device__ constexpr int rest_floats(int degree) { return 3 * (basis_count(degree) - 1); }
__host__ __device__ constexpr int row_floats(int degree) { return rest_floats(degree) | 1; }

// Brings the coefficients of the warp's Gaussians in `wanted` (bits) into its rows.
template <int Degree>
__device__ void load_rest(const ProjectInputs& in, int first, unsigned wanted, float* rows) {
  constexpr int used = rest_floats(Degree), stride = row_floats(Degree);
  const int lane = threadIdx.x & 31;
  __syncwarp();
#pragma unroll 9
  for (int e = lane; e < 32 * used; e += 32) {
    const int row = e / used, k = e - row * used;
    if (wanted >> row & 1) rows[row * stride + k] = in.shN[(first + row) * in.shN_stride + k];
  }
  __syncwarp();
}

template <int Degree>
__global__ void __launch_bounds__(kThreads)
    project_kernel(const ProjectInputs in, const Projected out) {
  extern __shared__ float shared[];
  const int i = blockIdx.x * kThreads + threadIdx.x, lane = threadIdx.x & 31;
  const int warp_first = i - lane;
  constexpr int stride = row_floats(Degree);
  float* rows = shared + (threadIdx.x >> 5) * 32 * stride;
  const bool exists = i < in.num_gaussians;
  Gaussian g;
  BadInput bad = BadInput::none;
  if (exists) bad = read_gaussian(in, i, g);
  unsigned loaded = 0;
  for (int c = 0; c < in.num_cameras; ++c) {
    const Camera cam = camera_of(in, c);
    const int64_t row = int64_t(c) * in.num_gaussians + i;
    bool seen = exists && bad == BadInput::none;
    if (seen) {
      const View o = look(in, cam, g);
      float opacity = g.opacity;
      if (in.antialiased) opacity *= sqrtf(o.det_raw / fmaxf(o.det, 1e-30f));
      seen = o.z > in.near_plane && o.z < in.far_plane && opacity >= kMinAlpha && o.det > 0 &&
             o.det < 1e30f;
      const float xx = o.xx + in.eps2d, yy = o.yy + in.eps2d;
      const float x = cam.fx * (o.x * o.rz) + cam.cx, y = cam.fy * (o.y * o.rz) + cam.cy;
      const float reach = 2.0f * 0.69314718f * log2f(opacity * 255.0f);
      const float hx = sqrtf(fmaxf(reach * xx, 0.0f)), hy = sqrtf(fmaxf(reach * yy, 0.0f));
      seen = seen && x + hx > 0 && x - hx < float(in.width);
      seen = seen && y + hy > 0 && y - hy < float(in.height);
      if (seen) {
        const float mid = 0.5f * (xx + yy);
        const float largest = mid + sqrtf(fmaxf(mid * mid - o.det, 0.0f));
        const float inverse = 1.0f / o.det, radius = 3.0f * sqrtf(largest);
        out.means2d[2 * row] = x;
        out.means2d[2 * row + 1] = y;
        out.conics[3 * row] = yy * inverse;
        out.conics[3 * row + 1] = -o.xy * inverse;
        out.conics[3 * row + 2] = xx * inverse;
        out.depths[row] = o.z;
        out.opacities[row] = opacity;
        out.radii[row] = radius < 1e9f ? int(ceilf(radius)) : 1000000000;
      }
    }
    if (exists && !seen) {
      out.means2d[2 * row] = out.means2d[2 * row + 1] = 0;
      out.conics[3 * row] = out.conics[3 * row + 1] = out.conics[3 * row + 2] = 0;
      out.depths[row] = 0;
      out.opacities[row] = 0;
      out.radii[row] = -int(bad);
    }
    if (!out.colors) continue;
    const unsigned wanted = __ballot_sync(kAll, seen) & ~loaded;
    if constexpr (Degree > 0)
      if (wanted) {
        load_rest<Degree>(in, warp_first, wanted, rows);
        loaded |= wanted;
      }
    float rgb[3] = {0, 0, 0};
    if (seen) {
      float inverse_length, basis[kMaxBasis];
      const float3 d = direction(cam, g.mean, inverse_length);
      harmonics(Degree, d, basis);
      const float* dc = in.sh0 + i * in.sh0_stride;
      for (int k = 0; k < 3; ++k) rgb[k] = basis[0] * dc[k] + 0.5f;
      const float* rest = rows + lane * stride;
#pragma unroll
      for (int k = 1; k < kMaxBasis; ++k)
        if (k < basis_count(Degree))
          for (int j = 0; j < 3; ++j) rgb[j] += basis[k] * rest[3 * (k - 1) + j];
    }
    if (exists)  // not fmaxf, which would take what is no number for black
      for (int k = 0; k < 3; ++k) out.colors[3 * row + k] = rgb[k] < 0 ? 0.0f : rgb[k];
  }
}

// One camera's gradient with respect to the 2D covariance and to the opacity.
struct Flat {
  float xx, xy, yy, opacity;
};

__device__ Flat flat_gradient(const ProjectInputs& in, const ProjectGradients& up,
                              const Gaussian& g, const View& o, int64_t row) {
  // conic = inverse(cov), so dL/dcov = -conic dL/dconic conic, with half the cross term on each
  // side.
  const float A = up.projected_conics[3 * row], B = up.projected_conics[3 * row + 1],
              C = up.projected_conics[3 * row + 2];
  const float ga = up.conics[3 * row], gb = 0.5f * up.conics[3 * row + 1],
              gc = up.conics[3 * row + 2];
  const float p = A * ga + B * gb, q = A * gb + B * gc, r = B * ga + C * gb, s = B * gb + C * gc;
  Flat f;
  f.xx = -(p * A + q * B);
  f.xy = -(p * B + q * C);
  f.yy = -(r * B + s * C);
  f.opacity = up.opacities[row];
  if (!in.antialiased) return f;
  const float ratio = o.det_raw / fmaxf(o.det, 1e-30f), rho = sqrtf(ratio);
  const float k = rho > 0 ? 0.5f * f.opacity * g.opacity / (rho * o.det) : 0.0f;
  f.opacity *= rho;
  f.xx += k * (o.yy - ratio * (o.yy + in.eps2d));
  f.xy += k * o.xy * (ratio - 1.0f);
  f.yy += k * (o.xx - ratio * (o.xx + in.eps2d));
  return f;
}

struct Sums {
  float mean[3] = {}, opacity = 0;
  float sigma[6] = {};  // upper triangle of dL/dcovariance, a symmetric matrix
};

// Adds one camera's geometry gradient to the sums.
__device__ void geometry_backward(const ProjectInputs& in, const ProjectGradients& up,
                                  const Camera& cam, const Gaussian& g, int64_t row, Sums& sums) {
  const View o = look(in, cam, g);
  const Flat f = flat_gradient(in, up, g, o, row);
  sums.opacity += f.opacity;
  // dL/dSigma = T^T V T, and dL/dT = 2 V T Sigma, in which T Sigma = (T M) M^T.
  float VT[2][3], v_T[2][3];
  for (int k = 0; k < 3; ++k) {
    VT[0][k] = f.xx * o.T[0][k] + f.xy * o.T[1][k];
    VT[1][k] = f.xy * o.T[0][k] + f.yy * o.T[1][k];
  }
  sums.sigma[0] += o.T[0][0] * VT[0][0] + o.T[1][0] * VT[1][0];
  sums.sigma[1] += o.T[0][0] * VT[0][1] + o.T[1][0] * VT[1][1];
  sums.sigma[2] += o.T[0][0] * VT[0][2] + o.T[1][0] * VT[1][2];
  sums.sigma[3] += o.T[0][1] * VT[0][1] + o.T[1][1] * VT[1][1];
  sums.sigma[4] += o.T[0][1] * VT[0][2] + o.T[1][1] * VT[1][2];
  sums.sigma[5] += o.T[0][2] * VT[0][2] + o.T[1][2] * VT[1][2];
  for (int k = 0; k < 3; ++k) {
    // With covariances M is Sigma itself, and `a` is T Sigma.
    const float t0 = in.covariances ? o.a[0][k] : dot3(o.a[0], g.M[k]);
    const float t1 = in.covariances ? o.a[1][k] : dot3(o.a[1], g.M[k]);
    v_T[0][k] = 2.0f * (f.xx * t0 + f.xy * t1);
    v_T[1][k] = 2.0f * (f.xy * t0 + f.yy * t1);
  }
  // T = J R: the four entries of J that are not zero.
  const float* R = cam.rotation;
  const float j00 = dot3(v_T[0], R), j02 = dot3(v_T[0], R + 6);
  const float j11 = dot3(v_T[1], R + 3), j12 = dot3(v_T[1], R + 6);
  const float v_u = cam.fx * (up.means2d[2 * row] - (o.free_u ? o.rz * j02 : 0.0f));
  const float v_v = cam.fy * (up.means2d[2 * row + 1] - (o.free_v ? o.rz * j12 : 0.0f));
  const float px = v_u * o.rz, py = v_v * o.rz;
  const float along =
      v_u * o.x + v_v * o.y + (cam.fx * (j00 - o.u * j02) + cam.fy * (j11 - o.v * j12));
  const float pz = (up.depths ? up.depths[row] : 0.0f) - along * o.rz * o.rz;
  for (int k = 0; k < 3; ++k) sums.mean[k] += R[k] * px + R[3 + k] * py + R[6 + k] * pz;
}

// Adds one camera's part to the gradients of the coefficients, and the colour's to the centre's.
// With one camera `v_rest` is `rest` itself, which is read before it is written.
template <int Degree, bool OneCamera>
__device__ void colors_backward(const ProjectInputs& in, const ProjectGradients& up,
                                const Camera& cam, const float* mean, int64_t row,
                                const float* rest, float* v_rest, float* v_dc, float* v_mean) {
  float inverse_length, basis[kMaxBasis], weights[kMaxBasis], rgb[3];
  const float3 d = direction(cam, mean, inverse_length);
  harmonics(Degree, d, basis);
  for (int k = 0; k < 3; ++k) {
    rgb[k] = up.projected_colors[3 * row + k] > 0 ? up.colors[3 * row + k] : 0.0f;
    v_dc[k] += basis[0] * rgb[k];
  }
#pragma unroll
  for (int k = 1; k < kMaxBasis; ++k) {
    weights[k] = 0;
    if (k < basis_count(Degree)) {
      const float* r = rest + 3 * (k - 1);
      float* v = v_rest + 3 * (k - 1);
      weights[k] = r[0] * rgb[0] + r[1] * rgb[1] + r[2] * rgb[2];
      for (int j = 0; j < 3; ++j) v[j] = (OneCamera ? 0.0f : v[j]) + basis[k] * rgb[j];
    }
  }
  if (!up.geometry || Degree == 0) return;
  const float3 v = harmonics_backward(Degree, d, weights);
  const float along = v.x * d.x + v.y * d.y + v.z * d.z;
  v_mean[0] += (v.x - along * d.x) * inverse_length;
  v_mean[1] += (v.y - along * d.y) * inverse_length;
  v_mean[2] += (v.z - along * d.z) * inverse_length;
}

// From dL/dcovariance to scales and raw quaternions.
__device__ void shape_backward(const ProjectInputs& in, const Gaussian& g, int i, const Sums& sums,
                               float* v_scale, float* v_quat) {
  const float4 raw = reinterpret_cast<const float4*>(in.quats)[i];
  const float q4[4] = {raw.x, raw.y, raw.z, raw.w};
  const Turn turn = turn_of(q4);
  const float* S = sums.sigma;
  float V[3][3];  // dL/dM = 2 dL/dSigma M, then dL/dR
  for (int k = 0; k < 3; ++k) {
    const float m0 = g.M[0][k], m1 = g.M[1][k], m2 = g.M[2][k];
    V[0][k] = 2.0f * (S[0] * m0 + S[1] * m1 + S[2] * m2);
    V[1][k] = 2.0f * (S[1] * m0 + S[3] * m1 + S[4] * m2);
    V[2][k] = 2.0f * (S[2] * m0 + S[4] * m1 + S[5] * m2);
    v_scale[k] = V[0][k] * turn.R[0][k] + V[1][k] * turn.R[1][k] + V[2][k] * turn.R[2][k];
    const float scale = in.scales[3 * int64_t(i) + k];
    for (int r = 0; r < 3; ++r) V[r][k] *= scale;
  }
  const float w = turn.quat[0], x = turn.quat[1], y = turn.quat[2], z = turn.quat[3];
  const float s01 = V[0][1] + V[1][0], s02 = V[0][2] + V[2][0], s12 = V[1][2] + V[2][1];
  const float a01 = V[1][0] - V[0][1], a02 = V[0][2] - V[2][0], a12 = V[2][1] - V[1][2];
  const float q[4] = {2 * (x * a12 + y * a02 + z * a01),
                      2 * (y * s01 + z * s02 + w * a12 - 2 * x * (V[1][1] + V[2][2])),
                      2 * (x * s01 + z * s12 + w * a02 - 2 * y * (V[0][0] + V[2][2])),
                      2 * (x * s02 + y * s12 + w * a01 - 2 * z * (V[0][0] + V[1][1]))};
  const float radial = q[0] * w + q[1] * x + q[2] * y + q[3] * z;
  for (int k = 0; k < 4; ++k) v_quat[k] = (q[k] - radial * turn.quat[k]) * turn.inverse_norm;
}

// Writes the warp's gradients of the higher coefficients, zero where none is in use.
template <int Degree>
__device__ void store_rest(const ProjectInputs& in, const ProjectGradients& up, int first,
                           const float* rows) {
  constexpr int used = rest_floats(Degree), stride = row_floats(Degree);
  const int width = 3 * up.num_rest, lane = threadIdx.x & 31;
  const int count = min(32, in.num_gaussians - first);
  float* to = up.v_shN + int64_t(first) * width;
  __syncwarp();
  if (width == used && used > 0) {
#pragma unroll 9
    for (int e = lane; e < count * used; e += 32) {
      const int row = e / max(used, 1);
      to[e] = rows[row * stride + e - row * used];
    }
    return;
  }
  for (int e = lane; e < count * width; e += 32) {
    const int row = e / width, k = e - row * width;
    to[e] = k < used ? rows[row * stride + k] : 0.0f;
  }
}

template <int Degree, bool OneCamera>
__global__ void __launch_bounds__(kThreads, 9)
    project_backward_kernel(const ProjectInputs in, const ProjectGradients up) {
  extern __shared__ float shared[];
  const int i = blockIdx.x * kThreads + threadIdx.x, lane = threadIdx.x & 31;
  const int warp_first = i - lane;
  constexpr int stride = row_floats(Degree);
  if (warp_first >= in.num_gaussians) return;
  float* rest_rows = shared + (threadIdx.x >> 5) * (OneCamera ? 32 : 64) * stride;
  float* v_rows = rest_rows + (OneCamera ? 0 : 32) * stride;
  const bool exists = i < in.num_gaussians;
  bool seen_at_all = false;
  for (int c = 0; c < in.num_cameras && exists; ++c)
    seen_at_all = seen_at_all || up.radii[int64_t(c) * in.num_gaussians + i] > 0;
  Sums sums;
  if (up.v_sh0) {
    float mean[3] = {0, 0, 0}, v_dc[3] = {0, 0, 0};
    for (int k = 0; k < 3 && seen_at_all; ++k) mean[k] = in.means[3 * int64_t(i) + k];
    if (!OneCamera || !seen_at_all)
      for (int k = 0; k < stride; ++k) v_rows[lane * stride + k] = 0;
    const unsigned wanted = __ballot_sync(kAll, seen_at_all);
    if constexpr (Degree > 0)
      if (wanted) load_rest<Degree>(in, warp_first, wanted, rest_rows);
    for (int c = 0; c < in.num_cameras; ++c) {
      const int64_t row = int64_t(c) * in.num_gaussians + i;
      if (!seen_at_all || up.radii[row] <= 0) continue;
      colors_backward<Degree, OneCamera>(in, up, camera_of(in, c), mean, row,
                                         rest_rows + lane * stride, v_rows + lane * stride, v_dc,
                                         sums.mean);
    }
    store_rest<Degree>(in, up, warp_first, v_rows);
    if (exists)
      for (int k = 0; k < 3; ++k) up.v_sh0[3 * int64_t(i) + k] = v_dc[k];
  }
  if (!up.geometry || !exists) return;
  Gaussian g;
  if (seen_at_all) {
    read_gaussian(in, i, g);
    for (int c = 0; c < in.num_cameras; ++c) {
      const int64_t row = int64_t(c) * in.num_gaussians + i;
      if (up.radii[row] > 0) geometry_backward(in, up, camera_of(in, c), g, row, sums);
    }
  }
  for (int k = 0; k < 3; ++k) up.v_means[3 * int64_t(i) + k] = sums.mean[k];
  up.v_opacities[i] = sums.opacity;
  if (in.covariances) {
    // An entry off the diagonal stands for two.
    for (int k = 0; k < 6; ++k)
      up.v_covariances[6 * int64_t(i) + k] = (k == 0 || k == 3 || k == 5 ? 1 : 2) * sums.sigma[k];
    return;
  }
  float v_scale[3] = {0, 0, 0}, v_quat[4] = {0, 0, 0, 0};
  if (seen_at_all) shape_backward(in, g, i, sums, v_scale, v_quat);
  for (int k = 0; k < 3; ++k) up.v_scales[3 * int64_t(i) + k] = v_scale[k];
  for (int k = 0; k < 4; ++k) up.v_quats[4 * int64_t(i) + k] = v_quat[k];
}

template <class Work>
void with_degree(int degree, const Work& work) {
  switch (degree) {
    case 0:
      return work(std::integral_constant<int, 0>{});
    case 1:
      return work(std::integral_constant<int, 1>{});
    case 2:
      return work(std::integral_constant<int, 2>{});
    default:
      return work(std::integral_constant<int, 3>{});
  }
}

int blocks(int n) { return (n + kThreads - 1) / kThreads; }

}  // namespace

void project(const ProjectInputs& in, const Projected& out, cudaStream_t stream) {
  if (!in.num_gaussians) return;
  with_degree(out.colors ? in.sh_degree : 0, [&](auto degree) {
    const size_t bytes = out.colors ? sizeof(float) * kThreads * row_floats(degree) : 0;
    project_kernel<degree><<<blocks(in.num_gaussians), kThreads, bytes, stream>>>(in, out);
  });
}

void project_backward(const ProjectInputs& in, const ProjectGradients& up, cudaStream_t stream) {
  if (!in.num_gaussians) return;
  with_degree(up.v_sh0 ? in.sh_degree : 0, [&](auto degree) {
    const size_t bytes = up.v_sh0 ? sizeof(float) * kThreads * row_floats(degree) : 0;
    const int count = blocks(in.num_gaussians);
    if (in.num_cameras == 1)
      project_backward_kernel<degree, true><<<count, kThreads, bytes, stream>>>(in, up);
    else
      project_backward_kernel<degree, false><<<count, kThreads, 2 * bytes, stream>>>(in, up);
  });
}

}  // namespace raster::cuda
