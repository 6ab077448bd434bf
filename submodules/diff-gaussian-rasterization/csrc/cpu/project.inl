// Projection of Gaussians into cameras, forward and backward (EWA splatting, as in the 3DGS paper).

namespace {

struct Vec3 { float x, y, z; };

// Everything about one Gaussian in one camera that both directions need.
struct View {
  Vec3 p;                                  // centre in the camera's frame
  float rz, u, v;                          // 1/z; x/z and y/z after the clamp
  bool free_u, free_v;                     // not clamped
  float T[2][3];                           // Jacobian times rotation
  float xx, xy, yy;                        // 2D covariance without the low-pass filter
  float det_raw, det;                      // determinants without and with it
};

struct Shape {
  float R[3][3];
  float M[3][3];                           // rotation times scales
  float qw, qx, qy, qz, inverse_norm;
};

inline Shape shape_of(const raster::ProjectInputs& in, int64_t i) {
  Shape s;
  const float* q = in.quats + 4 * i;
  const float* scale = in.scales + 3 * i;
  const float n2 = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
  s.inverse_norm = n2 > 0 ? 1.0f / __builtin_sqrtf(n2) : 0.0f;
  const float w = s.qw = q[0] * s.inverse_norm, x = s.qx = q[1] * s.inverse_norm;
  const float y = s.qy = q[2] * s.inverse_norm, z = s.qz = q[3] * s.inverse_norm;
  s.R[0][0] = 1 - 2 * (y * y + z * z), s.R[0][1] = 2 * (x * y - w * z), s.R[0][2] = 2 * (x * z + w * y);
  s.R[1][0] = 2 * (x * y + w * z), s.R[1][1] = 1 - 2 * (x * x + z * z), s.R[1][2] = 2 * (y * z - w * x);
  s.R[2][0] = 2 * (x * z - w * y), s.R[2][1] = 2 * (y * z + w * x), s.R[2][2] = 1 - 2 * (x * x + y * y);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) s.M[r][c] = s.R[r][c] * scale[c];
  return s;
}

inline float camera_z(const raster::Camera& cam, const float* m) {
  return cam.rotation[6] * m[0] + cam.rotation[7] * m[1] + cam.rotation[8] * m[2] + cam.translation[2];
}

inline void look(const raster::Camera& cam, const float* m, View& view) {
  const float* R = cam.rotation;
  view.p.x = R[0] * m[0] + R[1] * m[1] + R[2] * m[2] + cam.translation[0];
  view.p.y = R[3] * m[0] + R[4] * m[1] + R[5] * m[2] + cam.translation[1];
  view.p.z = camera_z(cam, m);
  view.rz = 1.0f / view.p.z;
  const float u = view.p.x * view.rz, v = view.p.y * view.rz;
  view.free_u = u >= cam.min_u && u <= cam.max_u;
  view.free_v = v >= cam.min_v && v <= cam.max_v;
  view.u = u < cam.min_u ? cam.min_u : u > cam.max_u ? cam.max_u : u;
  view.v = v < cam.min_v ? cam.min_v : v > cam.max_v ? cam.max_v : v;
  const float jx = cam.fx * view.rz, jy = cam.fy * view.rz;
  for (int c = 0; c < 3; ++c) {
    view.T[0][c] = jx * (R[c] - view.u * R[6 + c]);
    view.T[1][c] = jy * (R[3 + c] - view.v * R[6 + c]);
  }
}

inline void flatten(const Shape& s, float eps2d, View& view) {
  float a[2][3];
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 3; ++c)
      a[r][c] = view.T[r][0] * s.M[0][c] + view.T[r][1] * s.M[1][c] + view.T[r][2] * s.M[2][c];
  view.xx = a[0][0] * a[0][0] + a[0][1] * a[0][1] + a[0][2] * a[0][2];
  view.xy = a[0][0] * a[1][0] + a[0][1] * a[1][1] + a[0][2] * a[1][2];
  view.yy = a[1][0] * a[1][0] + a[1][1] * a[1][1] + a[1][2] * a[1][2];
  // Lagrange's identity: the determinant of A A^T without the cancellation of xx yy - xy^2.
  const float c0 = a[0][1] * a[1][2] - a[0][2] * a[1][1];
  const float c1 = a[0][2] * a[1][0] - a[0][0] * a[1][2];
  const float c2 = a[0][0] * a[1][1] - a[0][1] * a[1][0];
  view.det_raw = c0 * c0 + c1 * c1 + c2 * c2;
  view.det = view.det_raw + eps2d * (view.xx + view.yy + eps2d);
}

inline void flatten(const float* S, float eps2d, View& view) {
  const float full[3][3] = {{S[0], S[1], S[2]}, {S[1], S[3], S[4]}, {S[2], S[4], S[5]}};
  double cov[2][2];
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 2; ++c) {
      cov[r][c] = 0;
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) cov[r][c] += double(view.T[r][i]) * full[i][j] * view.T[c][j];
    }
  view.xx = float(cov[0][0]), view.xy = float(cov[0][1]), view.yy = float(cov[1][1]);
  view.det_raw = float(cov[0][0] * cov[1][1] - cov[0][1] * cov[0][1]);
  view.det = view.det_raw + eps2d * (view.xx + view.yy + eps2d);
}

inline float compensation(const View& view) {
  const float ratio = view.det_raw / view.det;
  return ratio > 0 ? __builtin_sqrtf(ratio) : 0.0f;
}

// Real spherical harmonics of a unit direction, signs as 3DGS stores them; returns how many.
inline int harmonics(int degree, float x, float y, float z, float* b) {
  b[0] = 0.28209479177387814f;
  if (degree < 1) return 1;
  b[1] = -0.4886025119029199f * y, b[2] = 0.4886025119029199f * z, b[3] = -0.4886025119029199f * x;
  if (degree < 2) return 4;
  const float xx = x * x, yy = y * y, zz = z * z;
  b[4] = 1.0925484305920792f * x * y;
  b[5] = -1.0925484305920792f * y * z;
  b[6] = 0.31539156525252005f * (2 * zz - xx - yy);
  b[7] = -1.0925484305920792f * x * z;
  b[8] = 0.5462742152960396f * (xx - yy);
  if (degree < 3) return 9;
  b[9] = -0.5900435899266435f * y * (3 * xx - yy);
  b[10] = 2.890611442640554f * x * y * z;
  b[11] = -0.4570457994644658f * y * (4 * zz - xx - yy);
  b[12] = 0.3731763325901154f * z * (2 * zz - 3 * xx - 3 * yy);
  b[13] = -0.4570457994644658f * x * (4 * zz - xx - yy);
  b[14] = 1.445305721320277f * z * (xx - yy);
  b[15] = -0.5900435899266435f * x * (xx - 3 * yy);
  return 16;
}

// Gradient of sum_k weight[k] * basis_k with respect to the direction, taken as free x, y, z.
inline Vec3 harmonics_backward(int degree, float x, float y, float z, const float* w) {
  Vec3 g{0, 0, 0};
  if (degree < 1) return g;
  constexpr float c1 = 0.4886025119029199f;
  g.x = -c1 * w[3], g.y = -c1 * w[1], g.z = c1 * w[2];
  if (degree < 2) return g;
  constexpr float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
  g.x += c2 * (w[4] * y - w[7] * z) - 2 * c20 * w[6] * x + 2 * c22 * w[8] * x;
  g.y += c2 * (w[4] * x - w[5] * z) - 2 * c20 * w[6] * y - 2 * c22 * w[8] * y;
  g.z += -c2 * (w[5] * y + w[7] * x) + 4 * c20 * w[6] * z;
  if (degree < 3) return g;
  constexpr float c30 = 0.3731763325901154f, c31 = 0.4570457994644658f, c32 = 2.890611442640554f;
  constexpr float c32b = 1.445305721320277f, c33 = 0.5900435899266435f;
  const float xx = x * x, yy = y * y, zz = z * z;
  g.x += -c33 * w[9] * 6 * x * y + c32 * w[10] * y * z + c31 * w[11] * 2 * x * y - c30 * w[12] * 6 * x * z -
         c31 * w[13] * (4 * zz - 3 * xx - yy) + c32b * w[14] * 2 * x * z - c33 * w[15] * 3 * (xx - yy);
  g.y += -c33 * w[9] * 3 * (xx - yy) + c32 * w[10] * x * z - c31 * w[11] * (4 * zz - xx - 3 * yy) -
         c30 * w[12] * 6 * y * z + c31 * w[13] * 2 * x * y - c32b * w[14] * 2 * y * z + c33 * w[15] * 6 * x * y;
  g.z += c32 * w[10] * x * y - c31 * w[11] * 8 * y * z + c30 * w[12] * (6 * zz - 3 * xx - 3 * yy) -
         c31 * w[13] * 8 * x * z + c32b * w[14] * (xx - yy);
  return g;
}

inline Vec3 direction(const raster::Camera& cam, const float* m, float& inverse_length) {
  const float x = m[0] - cam.position[0], y = m[1] - cam.position[1], z = m[2] - cam.position[2];
  const float n2 = x * x + y * y + z * z;
  inverse_length = n2 > 0 ? 1.0f / __builtin_sqrtf(n2) : 0.0f;
  return {x * inverse_length, y * inverse_length, z * inverse_length};
}

int64_t project(const raster::ProjectInputs& in, const raster::Projected& out, int64_t begin, int64_t end) {
  int64_t bad = -1;
  for (int64_t i = begin; i < end; ++i) {
    const float* m = in.means + 3 * i;
    float check = m[0] * 0 + m[1] * 0 + m[2] * 0 + in.opacities[i] * 0;
    Shape shape;
    if (in.covariances) {
      for (int k = 0; k < 6; ++k) check += in.covariances[6 * i + k] * 0;
    } else {
      for (int k = 0; k < 4; ++k) check += in.quats[4 * i + k] * 0;
      for (int k = 0; k < 3; ++k) check += in.scales[3 * i + k] * 0;
    }
    if (!(check == 0)) {
      bad = i;
      break;
    }
    bool shaped = in.covariances != nullptr;
    for (int64_t c = 0; c < in.num_cameras; ++c) {
      const raster::Camera& cam = in.cameras[c];
      const int64_t row = c * in.num_gaussians + i;
      float* xy = out.means2d + 2 * row;
      float* conic = out.conics + 3 * row;
      float* color = out.colors ? out.colors + 3 * row : nullptr;
      xy[0] = xy[1] = conic[0] = conic[1] = conic[2] = 0;
      out.depths[row] = out.opacities[row] = 0;
      out.radii[row] = 0;
      if (color) color[0] = color[1] = color[2] = 0;
      const float z = camera_z(cam, m);
      if (!(z > in.near_plane && z < in.far_plane) || in.opacities[i] < raster::kMinAlpha) continue;
      if (!shaped) shape = shape_of(in, i), shaped = true;
      View view;
      look(cam, m, view);
      if (in.covariances) flatten(in.covariances + 6 * i, in.eps2d, view);
      else flatten(shape, in.eps2d, view);
      const float opacity = in.opacities[i] * (in.antialiased ? compensation(view) : 1.0f);
      if (!(view.det > 0) || !(view.det < 1e30f) || opacity < raster::kMinAlpha) continue;
      const float xx = view.xx + in.eps2d, yy = view.yy + in.eps2d;
      const float x = cam.fx * view.p.x * view.rz + cam.cx, y = cam.fy * view.p.y * view.rz + cam.cy;
      const float reach = 2.0f * __builtin_logf(255.0f * opacity) + 1e-3f;
      const float hx = __builtin_sqrtf(reach * xx), hy = __builtin_sqrtf(reach * yy);
      if (x + hx <= 0 || x - hx >= in.width || y + hy <= 0 || y - hy >= in.height) continue;
      const float mid = 0.5f * (xx + yy);
      const float gap = mid * mid - view.det;
      const float largest = mid + __builtin_sqrtf(gap > 0 ? gap : 0.0f);
      const float inverse = 1.0f / view.det;
      xy[0] = x, xy[1] = y;
      conic[0] = yy * inverse, conic[1] = -view.xy * inverse, conic[2] = xx * inverse;
      out.depths[row] = z;
      out.opacities[row] = opacity;
      out.radii[row] = int32_t(__builtin_ceilf(3.0f * __builtin_sqrtf(largest)));
      if (!color) continue;
      float inverse_length, basis[16];
      const Vec3 dir = direction(cam, m, inverse_length);
      const int n = harmonics(in.sh_degree, dir.x, dir.y, dir.z, basis);
      const float* dc = in.sh0 + i * in.sh0_stride;
      const float* rest = in.shN + i * in.shN_stride - 3;
      float rgb[3];
      for (int d = 0; d < 3; ++d) rgb[d] = basis[0] * dc[d] + 0.5f;
      for (int k = 1; k < n; ++k)
        for (int d = 0; d < 3; ++d) rgb[d] += basis[k] * rest[3 * k + d];
      for (int d = 0; d < 3; ++d) color[d] = rgb[d] > 0 ? rgb[d] : rgb[d] <= 0 ? 0.0f : rgb[d];
    }
  }
  return bad;
}

inline void covariance_gradient(const raster::ProjectInputs& in, const raster::ProjectGradients& g, const View& view,
                                int64_t i, int64_t row, float V[3], float& v_opacity) {
  // conic = inverse(cov), so dL/dcov = -conic dL/dconic conic, with the cross term counted once.
  const float A = g.projected_conics[3 * row], B = g.projected_conics[3 * row + 1], C = g.projected_conics[3 * row + 2];
  const float ga = g.conics[3 * row], gb = 0.5f * g.conics[3 * row + 1], gc = g.conics[3 * row + 2];
  const float p = A * ga + B * gb, q = A * gb + B * gc, r = B * ga + C * gb, s = B * gb + C * gc;
  V[0] = -(p * A + q * B);
  V[1] = -(p * B + q * C);
  V[2] = -(r * B + s * C);
  const float upstream = g.opacities[row];
  if (!in.antialiased) {
    v_opacity = upstream;
    return;
  }
  const float rho = compensation(view);
  v_opacity = upstream * rho;
  if (!(rho > 0)) return;
  const float k = 0.5f * upstream * in.opacities[i] / (rho * view.det), ratio = view.det_raw / view.det;
  V[0] += k * (view.yy - ratio * (view.yy + in.eps2d));
  V[1] += k * view.xy * (ratio - 1.0f);
  V[2] += k * (view.xx - ratio * (view.xx + in.eps2d));
}

void project_backward(const raster::ProjectInputs& in, const raster::ProjectGradients& g, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const float* m = in.means + 3 * i;
    float v_mean[3] = {0, 0, 0}, v_M[3][3] = {}, v_sigma[6] = {}, v_opacity = 0;
    Shape shape;
    bool shaped = false;
    if (g.v_sh0) {
      for (int d = 0; d < 3; ++d) g.v_sh0[3 * i + d] = 0;
      for (int64_t k = 0; k < 3 * g.num_rest; ++k) g.v_shN[3 * g.num_rest * i + k] = 0;
    }
    for (int64_t c = 0; c < in.num_cameras; ++c) {
      const int64_t row = c * in.num_gaussians + i;
      if (g.radii[row] <= 0) continue;
      const raster::Camera& cam = in.cameras[c];
      if (g.v_sh0) {
        float inverse_length, basis[16], weight[16], rgb[3];
        const Vec3 dir = direction(cam, m, inverse_length);
        const int n = harmonics(in.sh_degree, dir.x, dir.y, dir.z, basis);
        for (int d = 0; d < 3; ++d) {
          rgb[d] = g.projected_colors[3 * row + d] > 0 ? g.colors[3 * row + d] : 0.0f;
          g.v_sh0[3 * i + d] += basis[0] * rgb[d];
        }
        const float* rest = in.shN + i * in.shN_stride - 3;
        float* v_rest = g.v_shN + 3 * g.num_rest * i - 3;
        for (int k = 1; k < n; ++k) {
          weight[k] = rest[3 * k] * rgb[0] + rest[3 * k + 1] * rgb[1] + rest[3 * k + 2] * rgb[2];
          for (int d = 0; d < 3; ++d) v_rest[3 * k + d] += basis[k] * rgb[d];
        }
        if (g.geometry && n > 1) {
          const Vec3 v = harmonics_backward(in.sh_degree, dir.x, dir.y, dir.z, weight);
          const float along = v.x * dir.x + v.y * dir.y + v.z * dir.z;
          v_mean[0] += (v.x - along * dir.x) * inverse_length;
          v_mean[1] += (v.y - along * dir.y) * inverse_length;
          v_mean[2] += (v.z - along * dir.z) * inverse_length;
        }
      }
      if (!g.geometry) continue;
      View view;
      look(cam, m, view);
      if (in.covariances) {
        flatten(in.covariances + 6 * i, in.eps2d, view);
      } else {
        if (!shaped) shape = shape_of(in, i), shaped = true;
        flatten(shape, in.eps2d, view);
      }
      float V[3], v_o;
      covariance_gradient(in, g, view, i, row, V, v_o);
      v_opacity += v_o;
      float full[3][3];                    // covariance in the world
      if (in.covariances) {
        const float* S = in.covariances + 6 * i;
        const float S3[3][3] = {{S[0], S[1], S[2]}, {S[1], S[3], S[4]}, {S[2], S[4], S[5]}};
        for (int r = 0; r < 3; ++r)
          for (int k = 0; k < 3; ++k) full[r][k] = S3[r][k];
      } else {
        for (int r = 0; r < 3; ++r)
          for (int k = 0; k < 3; ++k)
            full[r][k] = shape.M[r][0] * shape.M[k][0] + shape.M[r][1] * shape.M[k][1] + shape.M[r][2] * shape.M[k][2];
      }
      float VT[2][3], v_T[2][3];           // V T; dL/dT = 2 V T Sigma
      for (int k = 0; k < 3; ++k) {
        VT[0][k] = V[0] * view.T[0][k] + V[1] * view.T[1][k];
        VT[1][k] = V[1] * view.T[0][k] + V[2] * view.T[1][k];
      }
      for (int r = 0; r < 2; ++r)
        for (int k = 0; k < 3; ++k)
          v_T[r][k] = 2 * (VT[r][0] * full[0][k] + VT[r][1] * full[1][k] + VT[r][2] * full[2][k]);
      float W[3][3];                       // dL/dSigma = T^T V T
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k) W[r][k] = view.T[0][r] * VT[0][k] + view.T[1][r] * VT[1][k];
      if (in.covariances) {
        v_sigma[0] += W[0][0], v_sigma[1] += 2 * W[0][1], v_sigma[2] += 2 * W[0][2];
        v_sigma[3] += W[1][1], v_sigma[4] += 2 * W[1][2], v_sigma[5] += W[2][2];
      } else {
        for (int r = 0; r < 3; ++r)
          for (int k = 0; k < 3; ++k)
            v_M[r][k] += 2 * (W[r][0] * shape.M[0][k] + W[r][1] * shape.M[1][k] + W[r][2] * shape.M[2][k]);
      }
      // T = J R: the four entries of J that are not zero.
      const float* R = cam.rotation;
      const float j00 = v_T[0][0] * R[0] + v_T[0][1] * R[1] + v_T[0][2] * R[2];
      const float j02 = v_T[0][0] * R[6] + v_T[0][1] * R[7] + v_T[0][2] * R[8];
      const float j11 = v_T[1][0] * R[3] + v_T[1][1] * R[4] + v_T[1][2] * R[5];
      const float j12 = v_T[1][0] * R[6] + v_T[1][1] * R[7] + v_T[1][2] * R[8];
      const float rz = view.rz, fx = cam.fx, fy = cam.fy;
      const float v_x2 = g.means2d[2 * row], v_y2 = g.means2d[2 * row + 1];
      float v_u = fx * v_x2, v_v = fy * v_y2;  // of x/z and y/z
      if (view.free_u) v_u -= fx * rz * j02;
      if (view.free_v) v_v -= fy * rz * j12;
      const float px = v_u * rz, py = v_v * rz;
      const float pz = g.depths[row] - (v_u * view.p.x + v_v * view.p.y) * rz * rz -
                       (fx * (j00 - view.u * j02) + fy * (j11 - view.v * j12)) * rz * rz;
      for (int k = 0; k < 3; ++k) v_mean[k] += R[k] * px + R[3 + k] * py + R[6 + k] * pz;
    }
    if (!g.geometry) continue;
    for (int k = 0; k < 3; ++k) g.v_means[3 * i + k] = v_mean[k];
    g.v_opacities[i] = v_opacity;
    if (in.covariances) {
      for (int k = 0; k < 6; ++k) g.v_covariances[6 * i + k] = v_sigma[k];
      continue;
    }
    float* v_scale = g.v_scales + 3 * i;
    float* v_quat = g.v_quats + 4 * i;
    if (!shaped) {
      v_scale[0] = v_scale[1] = v_scale[2] = v_quat[0] = v_quat[1] = v_quat[2] = v_quat[3] = 0;
      continue;
    }
    const float* scale = in.scales + 3 * i;
    float V[3][3];
    for (int k = 0; k < 3; ++k) {
      v_scale[k] = v_M[0][k] * shape.R[0][k] + v_M[1][k] * shape.R[1][k] + v_M[2][k] * shape.R[2][k];
      for (int r = 0; r < 3; ++r) V[r][k] = v_M[r][k] * scale[k];
    }
    const float w = shape.qw, x = shape.qx, y = shape.qy, z = shape.qz;
    const float qw = 2 * (x * (V[2][1] - V[1][2]) + y * (V[0][2] - V[2][0]) + z * (V[1][0] - V[0][1]));
    const float qx = 2 * (y * (V[0][1] + V[1][0]) + z * (V[0][2] + V[2][0]) + w * (V[2][1] - V[1][2])) - 4 * x * (V[1][1] + V[2][2]);
    const float qy = 2 * (x * (V[0][1] + V[1][0]) + z * (V[1][2] + V[2][1]) + w * (V[0][2] - V[2][0])) - 4 * y * (V[0][0] + V[2][2]);
    const float qz = 2 * (x * (V[0][2] + V[2][0]) + y * (V[1][2] + V[2][1]) + w * (V[1][0] - V[0][1])) - 4 * z * (V[0][0] + V[1][1]);
    const float radial = qw * w + qx * x + qy * y + qz * z;
    v_quat[0] = (qw - radial * w) * shape.inverse_norm;
    v_quat[1] = (qx - radial * x) * shape.inverse_norm;
    v_quat[2] = (qy - radial * y) * shape.inverse_norm;
    v_quat[3] = (qz - radial * z) * shape.inverse_norm;
  }
}

}  // namespace
