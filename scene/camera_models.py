"""COLMAP's camera models: their ids, names, parameters and projection equations.

Works on bare arrays of normalised coordinates; knows neither files nor photos.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Points = Float64[np.ndarray, "P 2"]
Params = Float64[np.ndarray, " Q"]


@dataclass(frozen=True)
class CameraModel:
    """What COLMAP stores for one camera model.

    Attributes:
        model_id: the number in cameras.bin.
        name: the word in cameras.txt.
        num_params: how many numbers follow the image size.
        num_focal: 2 for fx, fy; 1 for a shared f; 0 where there is none.
        distort: pinhole coordinates (x/z, y/z) and the parameters after the principal point ->
            the coordinates that are multiplied by the focal length; None where no pinhole image
            of the whole photo exists.
        is_fisheye: radii are angles, so a start value for the inverse is tan(radius).
    """

    model_id: int
    name: str
    num_params: int
    num_focal: int
    distort: Callable[[Points, Params], Points] | None
    is_fisheye: bool = False


def _pinhole(xy: Points, _: Params) -> Points:
    return xy


def _squared_radius(xy: Points) -> Float64[np.ndarray, " P"]:
    return np.einsum("pi,pi->p", xy, xy)


def _polynomial(r2: np.ndarray, coefficients: Params) -> np.ndarray:
    """1 + c0 r^2 + c1 r^4 + ..."""
    total = np.zeros_like(r2)
    for coefficient in coefficients[::-1]:
        total = (total + coefficient) * r2
    return 1 + total


def _tangential(xy: Points, p1: float, p2: float) -> Points:
    """Decentring shift of Brown's model."""
    x, y = xy.T
    r2 = _squared_radius(xy)
    return np.stack(
        [2 * p1 * x * y + p2 * (r2 + 2 * x * x), 2 * p2 * x * y + p1 * (r2 + 2 * y * y)], axis=1
    )


def _radial(xy: Points, k: Params) -> Points:
    return xy * _polynomial(_squared_radius(xy), k)[:, None]


def _opencv(xy: Points, k: Params) -> Points:
    return _radial(xy, k[:2]) + _tangential(xy, k[2], k[3])


def _full_opencv(xy: Points, k: Params) -> Points:
    r2 = _squared_radius(xy)
    ratio = _polynomial(r2, k[[0, 1, 4]]) / _polynomial(r2, k[5:8])
    return xy * ratio[:, None] + _tangential(xy, k[2], k[3])


def _equidistant(xy: Points) -> Points:
    """Points whose radius is the angle to the optical axis."""
    r = np.sqrt(_squared_radius(xy))
    safe = np.where(r > 1e-12, r, 1.0)
    return xy * np.where(r > 1e-12, np.arctan(r) / safe, 1.0)[:, None]


def _fisheye(xy: Points, k: Params) -> Points:
    return _radial(_equidistant(xy), k)


def _field_of_view(xy: Points, k: Params) -> Points:
    """Devernay and Faugeras: r_d = atan(2 r tan(w/2)) / w."""
    omega = k[0]
    if abs(omega) < 1e-8:
        return xy
    r = np.sqrt(_squared_radius(xy))
    safe = np.where(r > 1e-12, r, 1e-12)
    return xy * (np.arctan(2 * safe * np.tan(omega / 2)) / (omega * safe))[:, None]


def _thin_prism_fisheye(xy: Points, k: Params) -> Points:
    uv = _equidistant(xy)
    r2 = _squared_radius(uv)
    prism = r2[:, None] * k[None, 6:8]
    return _radial(uv, k[[0, 1, 4, 5]]) + _tangential(uv, k[2], k[3]) + prism


def _rad_tan_thin_prism_fisheye(xy: Points, k: Params) -> Points:
    """Project Aria's Fisheye624: tangential and prism terms of the radially warped point."""
    uv = _fisheye(xy, k[:6])
    r2 = _squared_radius(uv)
    prism = np.stack(
        [k[8] * r2 + k[9] * r2 * r2, k[10] * r2 + k[11] * r2 * r2],
        axis=1,
    )
    return uv + _tangential(uv, k[7], k[6]) + prism


def _division(xy: Points, k: Params) -> Points:
    """Fitzgibbon: r_u = r_d / (1 + k r_d^2), solved for r_d."""
    inner = 1 - 4 * k[0] * _squared_radius(xy)
    with np.errstate(invalid="ignore"):
        return xy * (2 / (1 + np.sqrt(inner)))[:, None]


def _unified(xy: Points, k: Params) -> Points:
    """Enhanced unified camera model (Khomutenko et al. 2016) on the plane z = 1."""
    alpha, beta = k
    distance = np.sqrt(beta * _squared_radius(xy) + 1)
    return xy / (alpha * distance + 1 - alpha)[:, None]


MODELS = (
    CameraModel(0, "SIMPLE_PINHOLE", 3, 1, _pinhole),
    CameraModel(1, "PINHOLE", 4, 2, _pinhole),
    CameraModel(2, "SIMPLE_RADIAL", 4, 1, _radial),
    CameraModel(3, "RADIAL", 5, 1, _radial),
    CameraModel(4, "OPENCV", 8, 2, _opencv),
    CameraModel(5, "OPENCV_FISHEYE", 8, 2, _fisheye, is_fisheye=True),
    CameraModel(6, "FULL_OPENCV", 12, 2, _full_opencv),
    CameraModel(7, "FOV", 5, 2, _field_of_view, is_fisheye=True),
    CameraModel(8, "SIMPLE_RADIAL_FISHEYE", 4, 1, _fisheye, is_fisheye=True),
    CameraModel(9, "RADIAL_FISHEYE", 5, 1, _fisheye, is_fisheye=True),
    CameraModel(10, "THIN_PRISM_FISHEYE", 12, 2, _thin_prism_fisheye, is_fisheye=True),
    CameraModel(11, "RAD_TAN_THIN_PRISM_FISHEYE", 16, 2, _rad_tan_thin_prism_fisheye, True),
    CameraModel(12, "SIMPLE_DIVISION", 4, 1, _division),
    CameraModel(13, "DIVISION", 5, 2, _division),
    CameraModel(14, "SIMPLE_FISHEYE", 3, 1, _fisheye, is_fisheye=True),
    CameraModel(15, "FISHEYE", 4, 2, _fisheye, is_fisheye=True),
    CameraModel(16, "EUCM", 6, 2, _unified),
    CameraModel(17, "EQUIRECTANGULAR", 2, 0, None),
)
MODEL_BY_ID = {model.model_id: model for model in MODELS}
MODEL_BY_NAME = {model.name: model for model in MODELS}
SUPPORTED_NAMES = ", ".join(model.name for model in MODELS if model.distort is not None)


def undistort_points(model: CameraModel, extra: Params, distorted: Points) -> Points:
    """Invert `model.distort` by Newton's method; NaN where no pinhole ray leads to the point.

    Raises:
        ValueError: the model has no pinhole image.
    """
    distort = model.distort
    if distort is None:
        raise ValueError(f"{model.name} has no pinhole image")
    xy = distorted.copy()
    if model.is_fisheye:
        r = np.linalg.norm(distorted, axis=1)
        angle = np.minimum(r, 1.5)
        xy *= np.where(r > 1e-9, np.tan(angle) / np.maximum(r, 1e-9), 1.0)[:, None]
    with np.errstate(all="ignore"):
        for _ in range(30):
            error = distort(xy, extra) - distorted
            if not np.nanmax(np.abs(error), initial=0.0) > 1e-13:
                break
            xy = xy - _newton_step(distort, extra, xy, error)
        error = np.abs(distort(xy, extra) - distorted).max(axis=1, initial=0.0)
    return np.where((error < 1e-7)[:, None], xy, np.nan)


def _newton_step(
    distort: Callable[[Points, Params], Points], extra: Params, xy: Points, error: Points
) -> Points:
    """J^-1 error with a numerical Jacobian, no longer than half of the point's own radius + 0.5."""
    h = 1e-6 * (1 + np.abs(xy).max(axis=1))
    zero = np.zeros_like(h)
    by_x = np.stack([h, zero], 1)
    by_y = np.stack([zero, h], 1)
    a = (distort(xy + by_x, extra) - distort(xy - by_x, extra)) / (2 * h[:, None])
    b = (distort(xy + by_y, extra) - distort(xy - by_y, extra)) / (2 * h[:, None])
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    step = np.stack(
        [
            b[:, 1] * error[:, 0] - b[:, 0] * error[:, 1],
            a[:, 0] * error[:, 1] - a[:, 1] * error[:, 0],
        ],
        1,
    )
    step /= det[:, None]
    length = np.linalg.norm(step, axis=1)
    limit = 0.5 + 0.5 * np.linalg.norm(xy, axis=1)
    return step * np.minimum(1.0, limit / np.maximum(length, 1e-30))[:, None]
