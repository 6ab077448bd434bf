"""The rasterizer again, slow and obvious, in plain PyTorch of any float type: what tests believe.

It knows no tiles, no sorting by bits and no hand-written gradient: every Gaussian meets every
pixel, and autograd differentiates. Use it for tens of Gaussians and thousands of pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_ALPHA = 0.99
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4
FRUSTUM_MARGIN = 0.15  # of the image size on each side: 1.3 tan(fov / 2) for a centred camera
MIN_COVERAGE = 1e-10  # keeps the expected depth of an empty pixel at 0


@dataclass(frozen=True)
class ReferenceRender:
    """What one call draws; field names and shapes as in `diff_gaussian_rasterization`.

    Attributes:
        color: colours or features over the background; one leading axis more with `set_sizes`.
        alpha: coverage in [0, 1), same leading axes as `color`.
        depth: same shape as `alpha`, world units along the optical axis.
        means2d: projected centres in pixels; keeps its gradient.
        absgrad: zeros whose `.grad` is the absolute screen gradient after backward.
        radii: three standard deviations in pixels, 0 where a Gaussian cannot touch the image.
    """

    color: Float[Tensor, "*S C H W D"]
    alpha: Float[Tensor, "*S C H W"]
    depth: Float[Tensor, "*S C H W"] | None
    means2d: Float[Tensor, "C M 2"]
    absgrad: Float[Tensor, "C M 2"] | None
    radii: Int[Tensor, "C M"]


@dataclass(frozen=True)
class Splats2D:
    """Gaussians on one image plane."""

    means2d: Float[Tensor, "M 2"]
    conics: Float[Tensor, "M 3"]
    depths: Float[Tensor, " M"]
    opacities: Float[Tensor, " M"]
    radii: Int[Tensor, " M"]
    in_front: Bool[Tensor, " M"]

    def rows(self, rows: slice) -> "Splats2D":
        """The Gaussians of one set."""
        return Splats2D(
            self.means2d[rows],
            self.conics[rows],
            self.depths[rows],
            self.opacities[rows],
            self.radii[rows],
            self.in_front[rows],
        )


@dataclass(frozen=True)
class Lens:
    """What all cameras of one call share: sizes in pixels, planes in world units."""

    width: int
    height: int
    near_plane: float
    far_plane: float
    eps2d: float
    is_antialiased: bool


class _SplitGradient(torch.autograd.Function):
    """Copies centres once per pixel, so that the gradient can be summed with and without sign."""

    @staticmethod
    def forward(_ctx: Any, means2d: Tensor, _absgrad: Tensor, num_pixels: int) -> Tensor:
        return means2d[:, None].repeat(1, num_pixels, 1)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        return grads[0].sum(1), grads[0].abs().sum(1), None


def rotation_matrices(quats: Float[Tensor, "M 4"]) -> Float[Tensor, "M 3 3"]:
    """Rotations local -> world of wxyz quaternions of any non-zero norm."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def spherical_harmonics(
    sh_degree: int, directions: Float[Tensor, "M 3"], coefficients: Float[Tensor, "M K 3"]
) -> Float[Tensor, "M 3"]:
    """Colours `max(0, SH(direction) + 0.5)` from the first (sh_degree + 1)^2 coefficients.

    The basis is the real one with the Condon-Shortley sign, bands in the order m = -l..l, as in
    every 3DGS file. Directions are unit vectors from the camera to the Gaussian.
    """
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    basis = [torch.full_like(x, 0.28209479177387814)]
    if sh_degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if sh_degree >= 2:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if sh_degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    weights = torch.stack(basis, -1)
    return ((weights[..., None] * coefficients[:, : weights.shape[-1]]).sum(1) + 0.5).clamp_min(0)


def project(
    means: Float[Tensor, "M 3"],
    quats: Float[Tensor, "M 4"],
    scales: Float[Tensor, "M 3"],
    opacities: Float[Tensor, " M"],
    viewmat: Float[Tensor, "4 4"],
    K: Float[Tensor, "3 3"],
    lens: Lens,
) -> Splats2D:
    """EWA projection of 3D Gaussians onto one image plane (3DGS paper, section 4)."""
    rotation = viewmat[:3, :3]
    x, y, z = (means @ rotation.T + viewmat[:3, 3]).unbind(-1)
    in_front = (z > lens.near_plane) & (z < lens.far_plane)
    z = torch.where(in_front, z, torch.ones_like(z))
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    width, height = lens.width, lens.height
    margin_x, margin_y = FRUSTUM_MARGIN * width, FRUSTUM_MARGIN * height
    slope_x = (x / z).clamp((-margin_x - cx) / fx, (width + margin_x - cx) / fx)
    slope_y = (y / z).clamp((-margin_y - cy) / fy, (height + margin_y - cy) / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * slope_x / z], -1),
            torch.stack([zero, fy / z, -fy * slope_y / z], -1),
        ],
        -2,
    )
    half = jacobian @ rotation @ (rotation_matrices(quats) * scales[:, None])
    covariance = half @ half.mT
    raw_a, b, raw_c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    a, c = raw_a + lens.eps2d, raw_c + lens.eps2d
    determinant = a * c - b * b
    if lens.is_antialiased:
        ratio = (raw_a * raw_c - b * b) / determinant
        # The root of an exact 0 has an infinite slope: such a Gaussian is a line and draws nothing.
        is_flat = ratio <= 0
        root = torch.where(is_flat, torch.ones_like(ratio), ratio).sqrt()
        opacities = opacities * torch.where(is_flat, torch.zeros_like(ratio), root)
    conics = torch.stack([c / determinant, -b / determinant, a / determinant], -1)
    middle = 0.5 * (a + c)
    radii = (3 * (middle + (middle**2 - determinant).clamp_min(0.1).sqrt()).sqrt()).ceil()
    u, v = means2d.detach().unbind(-1)
    on_screen = (u + radii > 0) & (u - radii < width) & (v + radii > 0) & (v - radii < height)
    radii = torch.where(in_front & on_screen, radii, torch.zeros_like(radii))
    return Splats2D(means2d, conics, z, opacities, radii.detach().to(torch.int32), in_front)


@dataclass(frozen=True)
class Blend:
    """One image of one Gaussian set; `depth` is accumulated."""

    color: Float[Tensor, "H W D"]
    alpha: Float[Tensor, "H W"]
    depth: Float[Tensor, "H W"]


def blend(
    splats: Splats2D,
    colors: Float[Tensor, "M D"],
    background: Float[Tensor, " D"],
    width: int,
    height: int,
    absgrad: Float[Tensor, "M 2"] | None,
) -> Blend:
    """Front-to-back alpha compositing of every Gaussian at every pixel.

    Alpha is clamped at 0.99 and skipped below 1/255; a pixel stops before the Gaussian that would
    take its transmittance below 1e-4. Equal depths keep the order of the arguments.
    """
    order = splats.depths.detach().argsort(stable=True)
    order = order[splats.in_front[order]]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = (torch.stack([xs, ys], -1).reshape(-1, 2) + 0.5).to(colors)
    centres = splats.means2d[order]
    if absgrad is None:
        offsets = pixels - centres[:, None]
    else:
        split: Callable[[Tensor, Tensor, int], Tensor] = _SplitGradient.apply
        offsets = pixels - split(centres, absgrad[order], len(pixels))
    dx, dy = offsets.unbind(-1)
    a, b, c = splats.conics[order].T[..., None]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (splats.opacities[order, None] * torch.exp(-sigma)).clamp_max(MAX_ALPHA)
    with torch.no_grad():
        kept = torch.where(alpha >= MIN_ALPHA, alpha, torch.zeros_like(alpha))
        is_blended = (alpha >= MIN_ALPHA) & ((1 - kept).cumprod(0) >= MIN_TRANSMITTANCE)
    alpha = torch.where(is_blended, alpha, torch.zeros_like(alpha))
    after = torch.cat([torch.ones(1, len(pixels)).to(alpha), (1 - alpha).cumprod(0)])
    weights, transmittance = alpha * after[:-1], after[-1]
    color = weights.T @ colors[order] + transmittance[:, None] * background
    return Blend(
        color.reshape(height, width, -1),
        (1 - transmittance).reshape(height, width),
        (weights.T @ splats.depths[order]).reshape(height, width),
    )


def _view_colors(
    colors: Tensor | tuple[Tensor, Tensor],
    means: Float[Tensor, "M 3"],
    viewmat: Float[Tensor, "4 4"],
    sh_degree: int | None,
) -> Float[Tensor, "M D"]:
    """The colour of each Gaussian as one camera sees it."""
    coefficients = torch.cat(colors, 1) if isinstance(colors, tuple) else colors
    if sh_degree is None:
        return coefficients
    centre = -viewmat[:3, :3].T @ viewmat[:3, 3]
    towards = means - centre
    return spherical_harmonics(
        sh_degree, towards / towards.norm(dim=-1, keepdim=True), coefficients
    )


def _background(backgrounds: Tensor | None, camera: int, colors: Tensor) -> Tensor:
    """The background of one camera; black when none was given."""
    if backgrounds is None:
        return torch.zeros(colors.shape[-1]).to(colors)
    return backgrounds[camera] if backgrounds.ndim == 2 else backgrounds


def rasterization(
    means: Float[Tensor, "M 3"],
    quats: Float[Tensor, "M 4"],
    scales: Float[Tensor, "M 3"],
    opacities: Float[Tensor, " M"],
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    set_sizes: Sequence[int] | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    depth: Literal["none", "accumulated", "expected"] = "none",
    absgrad: bool = False,
    geometry_grad: bool = True,
) -> ReferenceRender:
    """Renders every Gaussian set with every camera; arguments as in the op of the same name."""
    if not geometry_grad:
        means, quats, scales, opacities = (t.detach() for t in (means, quats, scales, opacities))
    lens = Lens(width, height, near_plane, far_plane, eps2d, rasterize_mode == "antialiased")
    views = [
        project(means, quats, scales, opacities, viewmat, K, lens)
        for viewmat, K in zip(viewmats, Ks, strict=True)
    ]
    shades = [_view_colors(colors, means, viewmat, sh_degree) for viewmat in viewmats]
    means2d = torch.stack([view.means2d for view in views])
    if means2d.requires_grad:
        means2d.retain_grad()
    leaf = torch.zeros_like(means2d).detach().requires_grad_() if absgrad else None

    def draw(rows: slice, c: int) -> Blend:
        splats = replace(views[c], means2d=means2d[c]).rows(rows)
        background = _background(backgrounds, c, shades[c])
        own_leaf = None if leaf is None else leaf[c, rows]
        return blend(splats, shades[c][rows], background, width, height, own_leaf)

    sizes = [len(means)] if set_sizes is None else list(set_sizes)
    sets = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
    blends = [draw(rows, c) for rows in sets for c in range(len(views))]
    lead = (len(views),) if set_sizes is None else (len(sizes), len(views))

    def stacked(images: list[Tensor]) -> Tensor:
        return torch.stack(images).reshape(*lead, *images[0].shape)

    alpha = stacked([b.alpha for b in blends])
    distance = None if depth == "none" else stacked([b.depth for b in blends])
    if depth == "expected" and distance is not None:
        distance = distance / alpha.clamp_min(MIN_COVERAGE)
    color = stacked([b.color for b in blends])
    radii = torch.stack([view.radii for view in views])
    return ReferenceRender(color, alpha, distance, means2d, leaf, radii)


@dataclass(frozen=True)
class ReferenceActivated:
    """Scales in world units and opacities in (0, 1)."""

    scales: Float[Tensor, "M 3"]
    opacities: Float[Tensor, " M"]


def activate(
    log_scales: Float[Tensor, "M 3"],
    opacity_logits: Float[Tensor, " M"],
    filter_3d: Float[Tensor, " M"] | None = None,
) -> ReferenceActivated:
    """Exp and sigmoid, then the 3D smoothing filter of Mip-Splatting (equation 9).

    Args:
        filter_3d: standard deviation of the filter in world units; the filtered Gaussian keeps the
            integral of the unfiltered one.
    """
    scales, opacities = log_scales.exp(), opacity_logits.sigmoid()
    if filter_3d is None:
        return ReferenceActivated(scales, opacities)
    filtered = (scales**2 + filter_3d[:, None] ** 2).sqrt()
    return ReferenceActivated(filtered, opacities * (scales / filtered).prod(-1))


def _blur(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Gaussian of 11x11 taps and sigma 1.5; zeros outside the image."""
    taps = torch.exp(-0.5 * (torch.arange(-5, 6).to(images) / 1.5) ** 2)
    taps = taps / taps.sum()
    channels = images.shape[1]
    rows = torch.nn.functional.conv2d(
        images, taps.expand(channels, 1, 1, 11), padding=(0, 5), groups=channels
    )
    return torch.nn.functional.conv2d(
        rows, taps[:, None].expand(channels, 1, 11, 1), padding=(5, 0), groups=channels
    )


def ssim_map(
    color: Float[Tensor, "C H W 3"], target: Float[Tensor, "C H W 3"]
) -> Float[Tensor, "C H W"]:
    """Structural similarity (Wang et al. 2004) per pixel, mean over the colour channels.

    Gaussian window as above, dynamic range 1, C1 = 0.01^2, C2 = 0.03^2, biased variances.
    """
    x, y = color.movedim(-1, 1), target.movedim(-1, 1)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(1)


def photometric_loss(
    color: Float[Tensor, "C H W 3"],
    target: Tensor,
    *,
    lambda_dssim: float = 0.2,
    gradient_weight: Float[Tensor, "C H W"] | None = None,
    value_weight: Float[Tensor, "C H W"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - l) mean |color - target| + l (1 - mean SSIM) over all pixels.

    Args:
        target: in [0, 1], or bytes that are divided by 255.
        gradient_weight: multiplies the gradient of each pixel of `color` and changes no value:
            0 keeps a pixel from learning, also through the SSIM windows that it lies in.
        value_weight: multiplies both error maps before the mean over all pixels.
    """
    if target.dtype == torch.uint8:
        target = target.to(color) / 255
    if gradient_weight is not None:
        g = gradient_weight[..., None]
        color = g * color + ((1 - g) * color).detach()
    l1 = (color - target).abs().mean(-1)
    error = (1 - lambda_dssim) * l1 + lambda_dssim * (1 - ssim_map(color, target))
    return (error if value_weight is None else error * value_weight).mean()
