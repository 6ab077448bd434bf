// How gradients flow through the operators, for every device. In C++, since the same in Python
// costs the host more than a small render costs the GPU.
#include <ATen/ops/mul.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

namespace raster {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kLibrary = "twinsplat_raster::";

// The operator below autograd, found once.
template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  const std::string full = std::string(kLibrary) + name;
  return c10::Dispatcher::singleton().findSchemaOrThrow(full.c_str(), "").typed<Signature>();
}

OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

Tensor or_undefined(const OptionalTensor& tensor) { return tensor ? *tensor : Tensor(); }

// An operator gives an empty tensor for a gradient that was not wanted.
Tensor only_if(bool wanted, const Tensor& gradient) { return wanted ? gradient : Tensor(); }

bool learns(const OptionalTensor& tensor) { return tensor && tensor->requires_grad(); }

// The gradient of something that took part in nothing is zero.
Tensor or_zeros(const Tensor& gradient, const Tensor& maker, c10::SymIntArrayRef sizes) {
  return gradient.defined() ? gradient : at::zeros_symint(sizes, maker.options());
}

// ---- activate

using ActivateForward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&,
                                                   const OptionalTensor&);
using ActivateBackward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&,
                                                    const OptionalTensor&, const Tensor&,
                                                    const Tensor&);

struct ActivateFunction : torch::autograd::Function<ActivateFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& log_scales,
                               const Tensor& opacity_logits, const OptionalTensor& filter_3d) {
    static const auto op = find<ActivateForward>("activate");
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({log_scales, opacity_logits, or_undefined(filter_3d)});
    const auto [scales, opacities] = op.call(log_scales, opacity_logits, filter_3d);
    return {scales, opacities};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    static const auto op = find<ActivateBackward>("activate_backward");
    const variable_list in = ctx->get_saved_variables();
    const auto [v_log_scales, v_logits] = op.call(in[0], in[1], optional(in[2]), up[0], up[1]);
    return {v_log_scales, v_logits, Tensor()};
  }
};

std::tuple<Tensor, Tensor> activate(const Tensor& log_scales, const Tensor& opacity_logits,
                                    const OptionalTensor& filter_3d) {
  const variable_list out = ActivateFunction::apply(log_scales, opacity_logits, filter_3d);
  return {out[0], out[1]};
}

// ---- project

using SixTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using ProjectForward = SixTensors(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                  const OptionalTensor&, const Tensor&, const OptionalTensor&,
                                  const OptionalTensor&, const Tensor&, const Tensor&, int64_t,
                                  int64_t, int64_t, double, double, double, bool);
using ProjectBackward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>(
    const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
    const OptionalTensor&, const OptionalTensor&, const Tensor&, const OptionalTensor&,
    const OptionalTensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t, double, double,
    double, bool, bool);

struct ProjectFunction : torch::autograd::Function<ProjectFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& means,
                               const OptionalTensor& quats, const OptionalTensor& scales,
                               const OptionalTensor& covariances, const Tensor& opacities,
                               const OptionalTensor& sh0, const OptionalTensor& shN,
                               const Tensor& viewmats, const Tensor& Ks, int64_t width,
                               int64_t height, int64_t sh_degree, double near_plane,
                               double far_plane, double eps2d, bool antialiased) {
    static const auto op = find<ProjectForward>("project");
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [means2d, conics, depths, seen, colors, radii] =
        op.call(means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks, width, height,
                sh_degree, near_plane, far_plane, eps2d, antialiased);
    ctx->mark_non_differentiable({radii});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({conics, colors, radii, means, or_undefined(quats), or_undefined(scales),
                            or_undefined(covariances), opacities, or_undefined(sh0),
                            or_undefined(shN), viewmats, Ks});
    ctx->saved_data["sizes"] = std::vector<int64_t>{width, height, sh_degree};
    ctx->saved_data["planes"] = std::vector<double>{near_plane, far_plane, eps2d};
    ctx->saved_data["antialiased"] = antialiased;
    ctx->saved_data["geometry"] = learns(means) || learns(quats) || learns(scales) ||
                                  learns(covariances) || learns(opacities);
    ctx->saved_data["wants"] =
        std::vector<int64_t>{learns(means),     learns(quats), learns(scales), learns(covariances),
                             learns(opacities), learns(sh0),   learns(shN)};
    return {means2d, conics, depths, seen, colors, radii};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    static const auto op = find<ProjectBackward>("project_backward");
    const variable_list in = ctx->get_saved_variables();
    const Tensor &conics = in[0], &colors = in[1], &radii = in[2];
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const auto planes = ctx->saved_data["planes"].toDoubleVector();
    const auto [v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN] = op.call(
        or_zeros(up[0], conics, {radii.sym_size(0), radii.sym_size(1), 2}),
        or_zeros(up[1], conics, conics.sym_sizes()), optional(up[2]),
        or_zeros(up[3], conics, radii.sym_sizes()), or_zeros(up[4], colors, colors.sym_sizes()),
        conics, colors, radii, in[3], optional(in[4]), optional(in[5]), optional(in[6]), in[7],
        optional(in[8]), optional(in[9]), in[10], in[11], sizes[0], sizes[1], sizes[2], planes[0],
        planes[1], planes[2], ctx->saved_data["antialiased"].toBool(),
        ctx->saved_data["geometry"].toBool());
    const auto wants = ctx->saved_data["wants"].toIntVector();
    variable_list gradients{v_means, v_quats, v_scales, v_covariances, v_opacities, v_sh0, v_shN};
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (!wants[i]) gradients[i] = Tensor();
    }
    gradients.resize(16);
    return gradients;
  }
};

SixTensors project(const Tensor& means, const OptionalTensor& quats, const OptionalTensor& scales,
                   const OptionalTensor& covariances, const Tensor& opacities,
                   const OptionalTensor& sh0, const OptionalTensor& shN, const Tensor& viewmats,
                   const Tensor& Ks, int64_t width, int64_t height, int64_t sh_degree,
                   double near_plane, double far_plane, double eps2d, bool antialiased) {
  const variable_list out =
      ProjectFunction::apply(means, quats, scales, covariances, opacities, sh0, shN, viewmats, Ks,
                             width, height, sh_degree, near_plane, far_plane, eps2d, antialiased);
  return {out[0], out[1], out[2], out[3], out[4], out[5]};
}

// ---- blend

using BlendForward = SixTensors(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                const Tensor&, const Tensor&, const OptionalTensor&,
                                const OptionalTensor&, at::IntArrayRef, int64_t, int64_t, int64_t,
                                bool, bool, int64_t);
using BlendBackward = SixTensors(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                 const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                 const OptionalTensor&, at::IntArrayRef, int64_t, int64_t, int64_t,
                                 bool, bool);

struct BlendFunction : torch::autograd::Function<BlendFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& means2d, const Tensor& conics,
                               const Tensor& opacities, const Tensor& colors, const Tensor& depths,
                               const Tensor& radii, const OptionalTensor& backgrounds,
                               const OptionalTensor& absgrad, at::IntArrayRef set_sizes,
                               int64_t width, int64_t height, int64_t depth_mode,
                               bool geometry_grad, bool keep_state, int64_t capacity) {
    static const auto op = find<BlendForward>("blend");
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [color, alpha, depth, splats, state, counts] =
        op.call(means2d, conics, opacities, colors, depths, radii, backgrounds, absgrad, set_sizes,
                width, height, depth_mode, geometry_grad, keep_state, capacity);
    ctx->mark_non_differentiable({splats, state, counts});
    // Else a zero would be made for every byte of the state.
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({splats, state, means2d, conics, opacities, colors, depths, radii,
                            or_undefined(backgrounds), learns(backgrounds) ? alpha : Tensor()});
    ctx->saved_data["set_sizes"] = set_sizes.vec();
    ctx->saved_data["sizes"] = std::vector<int64_t>{width, height, depth_mode};
    const bool geometry = geometry_grad && (learns(means2d) || learns(conics) ||
                                            learns(opacities) || learns(depths) || learns(absgrad));
    ctx->saved_data["geometry"] = geometry;
    ctx->saved_data["absolute"] = geometry && absgrad.has_value();
    return {color, alpha, depth, splats, state, counts};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    static const auto op = find<BlendBackward>("blend_backward");
    const variable_list in = ctx->get_saved_variables();
    const auto set_sizes = ctx->saved_data["set_sizes"].toIntVector();
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const Tensor &means2d = in[2], &colors = in[5], &alpha = in[9];
    const Tensor v_color = or_zeros(
        up[0], colors,
        {int64_t(set_sizes.size()), means2d.sym_size(0), sizes[1], sizes[0], colors.sym_size(2)});
    const bool geometry = ctx->saved_data["geometry"].toBool();
    const bool absolute = ctx->saved_data["absolute"].toBool();
    const auto [v_means2d, v_conics, v_opacities, v_colors, v_depths, v_absgrad] = op.call(
        v_color, optional(up[1]), sizes[2] ? optional(up[2]) : std::nullopt, in[0], in[1], means2d,
        in[3], in[4], colors, in[6], in[7], optional(in[8]), set_sizes, sizes[0], sizes[1],
        sizes[2], ctx->saved_data["geometry"].toBool(), ctx->saved_data["absolute"].toBool());
    Tensor v_backgrounds;
    if (alpha.defined())
      v_backgrounds = v_color.mul(at::rsub(alpha, 1).unsqueeze(-1)).sum(at::IntArrayRef{0, 2, 3});
    variable_list gradients{only_if(geometry, v_means2d),
                            only_if(geometry, v_conics),
                            only_if(geometry, v_opacities),
                            v_colors,
                            only_if(geometry && sizes[2], v_depths),
                            Tensor(),
                            v_backgrounds,
                            only_if(absolute, v_absgrad)};
    gradients.resize(15);
    return gradients;
  }
};

SixTensors blend(const Tensor& means2d, const Tensor& conics, const Tensor& opacities,
                 const Tensor& colors, const Tensor& depths, const Tensor& radii,
                 const OptionalTensor& backgrounds, const OptionalTensor& absgrad,
                 at::IntArrayRef set_sizes, int64_t width, int64_t height, int64_t depth_mode,
                 bool geometry_grad, bool keep_state, int64_t capacity) {
  const variable_list out = BlendFunction::apply(means2d, conics, opacities, colors, depths, radii,
                                                 backgrounds, absgrad, set_sizes, width, height,
                                                 depth_mode, geometry_grad, keep_state, capacity);
  return {out[0], out[1], out[2], out[3], out[4], out[5]};
}

// ---- losses

using TwoTensors = std::tuple<Tensor, Tensor>;
using Photometric = TwoTensors(at::TensorList, const Tensor&, at::TensorList, at::TensorList,
                               double, bool, bool);

struct PhotometricFunction : torch::autograd::Function<PhotometricFunction> {
  static variable_list forward(AutogradContext* ctx, at::TensorList colors, const Tensor& target,
                               at::TensorList gradient_weights, at::TensorList value_weights,
                               double lambda_dssim, bool composite, bool wants_gradient) {
    static const auto op = find<Photometric>("photometric");
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [values, gradient] = op.call(colors, target, gradient_weights, value_weights,
                                            lambda_dssim, composite, wants_gradient);
    ctx->mark_non_differentiable({gradient});
    ctx->set_materialize_grads(false);  // zeros as large as the images, which nobody would read
    ctx->save_for_backward({gradient});
    ctx->saved_data["has_gradient"] = wants_gradient;
    ctx->saved_data["num_inputs"] =
        static_cast<int64_t>(colors.size() + gradient_weights.size() + value_weights.size() + 4);
    return {values, gradient};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    TORCH_CHECK(ctx->saved_data["has_gradient"].toBool(),
                "photometric: called with wants_gradient=False, so there is nothing to go back "
                "with; call photometric_loss");
    variable_list gradients;
    if (up[0].defined()) {
      const Tensor scaled = ctx->get_saved_variables()[0].mul(up[0].reshape({-1, 1, 1, 1, 1}));
      gradients = scaled.unbind();
    }
    gradients.resize(ctx->saved_data["num_inputs"].toInt());
    return gradients;
  }
};

TwoTensors photometric(at::TensorList colors, const Tensor& target, at::TensorList gradient_weights,
                       at::TensorList value_weights, double lambda_dssim, bool composite,
                       bool wants_gradient) {
  const variable_list out = PhotometricFunction::apply(
      colors, target, gradient_weights, value_weights, lambda_dssim, composite, wants_gradient);
  return {out[0], out[1]};
}

using MeanDifference = Tensor(const Tensor&, const Tensor&);
using MeanDifferenceBackward = TwoTensors(const Tensor&, const Tensor&, const Tensor&, bool);

struct MeanDifferenceFunction : torch::autograd::Function<MeanDifferenceFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b) {
    static const auto op = find<MeanDifference>("mean_difference");
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({a, b});
    ctx->saved_data["wants"] = std::vector<int64_t>{learns(a), learns(b)};
    return op.call(a, b);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    static const auto op = find<MeanDifferenceBackward>("mean_difference_backward");
    const variable_list in = ctx->get_saved_variables();
    const auto wants = ctx->saved_data["wants"].toIntVector();
    if (!wants[0]) return {Tensor(), std::get<0>(op.call(up[0], in[1], in[0], false))};
    const auto [v_a, v_b] = op.call(up[0], in[0], in[1], wants[1]);
    return {v_a, only_if(wants[1], v_b)};
  }
};

Tensor mean_difference(const Tensor& a, const Tensor& b) {
  return MeanDifferenceFunction::apply(a, b);
}

// ---- trust

using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
using TrustLoss = ThreeTensors(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double);

struct TrustLossFunction : torch::autograd::Function<TrustLossFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Tensor& residual,
                               const Tensor& low, const Tensor& span, double sharpness) {
    static const auto op = find<TrustLoss>("trust_loss");
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [value, trust, slopes] = op.call(logits, residual, low, span, sharpness);
    ctx->mark_non_differentiable({trust, slopes});
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({slopes});
    return {value, trust, slopes};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& up) {
    variable_list gradients(5);
    if (up[0].defined()) gradients[0] = ctx->get_saved_variables()[0].mul(up[0]);
    return gradients;
  }
};

ThreeTensors trust_loss(const Tensor& logits, const Tensor& residual, const Tensor& low,
                        const Tensor& span, double sharpness) {
  const variable_list out = TrustLossFunction::apply(logits, residual, low, span, sharpness);
  return {out[0], out[1], out[2]};
}

}  // namespace
}  // namespace raster

TORCH_LIBRARY_IMPL(twinsplat_raster, Autograd, m) {
  m.impl("activate", &raster::activate);
  m.impl("project", &raster::project);
  m.impl("blend", &raster::blend);
  m.impl("photometric", &raster::photometric);
  m.impl("mean_difference", &raster::mean_difference);
  m.impl("trust_loss", &raster::trust_loss);
}
