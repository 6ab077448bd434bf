"""Photos of distorted cameras as photos of pinhole cameras of the same size.

Knows one camera at a time: where its pixels look, and which pinhole window they fill.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64, Integer, UInt8
from torch.nn import functional

from arguments.messages import UserError
from scene.camera_models import CameraModel, undistort_points
from scene.colmap_records import ColmapCamera

# A shift below this many pixels everywhere is not worth a resampling.
INVISIBLE_SHIFT = 0.01
BORDER_SAMPLES = 128
# A fisheye's full view would need an endless image plane; beyond this zoom its rim is cut.
SMALLEST_ZOOM = 0.5
STRIP_PIXELS = 200_000


@dataclass(frozen=True)
class Lens:
    """One camera at the size of its photo file, and the pinhole window that replaces it.

    Attributes:
        focal: fx, fy of the photo in its own pixels.
        principal: cx, cy of the photo.
        extra: the distortion parameters.
        K: intrinsics of the pinhole image, which has the photo's size.
        is_pinhole: the photo is that image already.
        valid_area: share of the photo that the pinhole image shows.
    """

    model: CameraModel
    width: int
    height: int
    focal: Float64[np.ndarray, "2"]
    principal: Float64[np.ndarray, "2"]
    extra: Float64[np.ndarray, " E"]
    K: Float64[np.ndarray, "3 3"]
    is_pinhole: bool
    valid_area: float

    def to_pinhole(self, points: Float64[np.ndarray, "P 2"]) -> Float64[np.ndarray, "P 2"]:
        """Pixels of the photo as pixels of the pinhole image; NaN where there is none."""
        if self.is_pinhole:
            return points
        rays = undistort_points(self.model, self.extra, (points - self.principal) / self.focal)
        return rays * self.K[[0, 1], [0, 1]] + self.K[:2, 2]

    def sources(self) -> Float32[np.ndarray, "H W 2"]:
        """For every pixel of the pinhole image the place in the photo that it shows."""
        x = (np.arange(self.width) + 0.5 - self.K[0, 2]) / self.K[0, 0]
        y = (np.arange(self.height) + 0.5 - self.K[1, 2]) / self.K[1, 1]
        places = np.empty((self.height, self.width, 2), np.float32)
        rows = max(1, STRIP_PIXELS // self.width)
        for start in range(0, self.height, rows):
            part = y[start : start + rows]
            rays = np.stack(np.meshgrid(x, part), axis=-1).reshape(-1, 2)
            places[start : start + rows] = self._project(rays).reshape(len(part), self.width, 2)
        return places

    def _project(self, rays: Float64[np.ndarray, "P 2"]) -> Float64[np.ndarray, "P 2"]:
        if self.model.distort is None:
            raise ValueError(f"{self.model.name} has no pinhole image")
        return self.model.distort(rays, self.extra) * self.focal + self.principal


def make_lens(camera: ColmapCamera, width: int, height: int, undistort_command: str) -> Lens:
    """The lens of a camera whose photo files have the given size.

    Args:
        undistort_command: what the user can run where this module cannot help.

    Raises:
        UserError: the camera model has no pinhole image.
    """
    if camera.model.distort is None:
        raise UserError(
            f"camera {camera.camera_id} uses {camera.model.name}, which cannot be undistorted; cut "
            "the photos into perspective ones and calibrate those: "
            "colmap automatic_reconstructor --workspace_path DIR --image_path DIR/images"
        )
    scale = np.array([width / camera.width, height / camera.height])
    focal, principal = camera.focal * scale, camera.principal * scale
    K = np.diag([focal[0], focal[1], 1.0])
    K[:2, 2] = principal
    lens = Lens(camera.model, width, height, focal, principal, camera.extra, K, False, 1.0)
    if _largest_shift(lens) < INVISIBLE_SHIFT:
        return replace(lens, is_pinhole=True)
    fitted = _fitted(lens)
    if fitted is None:
        numbers = " ".join(f"{value:g}" for value in lens.extra)
        raise UserError(
            f"camera {camera.camera_id} ({lens.model.name} {numbers}): "
            f"no pinhole window fits into its photos; undistort them first: {undistort_command}"
        )
    return fitted


def _border(lens: Lens) -> Float64[np.ndarray, "4 S 2"]:
    """Points on the edges of the image: left, right, top, bottom."""
    t = np.linspace(0.0, 1.0, BORDER_SAMPLES)
    zero, one = np.zeros_like(t), np.ones_like(t)
    edges = np.stack(
        [
            np.stack([zero, t], 1),
            np.stack([one, t], 1),
            np.stack([t, zero], 1),
            np.stack([t, one], 1),
        ]
    )
    return edges * np.array([lens.width, lens.height])


def _largest_shift(lens: Lens) -> float:
    """How far the distortion moves any pixel of a coarse lattice, in pixels."""
    if not lens.extra.any() and not lens.model.is_fisheye:
        return 0.0
    t = np.linspace(0.0, 1.0, 33)
    lattice = np.stack(np.meshgrid(t, t), -1).reshape(-1, 2) * [lens.width, lens.height]
    moved = np.abs(lens.to_pinhole(lattice) - lattice)
    return float(np.inf if np.isnan(moved).any() else moved.max())


def _fitted(lens: Lens) -> Lens | None:
    """The lens with the widest pinhole window, of the photo's shape, that shows no border.

    None where no window does.
    """
    size = np.array([lens.width, lens.height], np.float64)
    left, right, top, bottom = undistort_points(
        lens.model,
        lens.extra,
        (_border(lens).reshape(-1, 2) - lens.principal) / lens.focal,
    ).reshape(4, -1, 2)
    low = np.array([_largest(left[:, 0]), _largest(top[:, 1])])
    high = -np.array([_largest(-right[:, 0]), _largest(-bottom[:, 1])])
    wanted = size / lens.focal
    low = np.where(np.isfinite(low), low, -wanted)
    high = np.where(np.isfinite(high), high, wanted)
    zoom = max(float((wanted / (high - low)).max()), SMALLEST_ZOOM)
    for _ in range(200):
        fitted = _windowed(lens, low, high, zoom)
        if _shows_no_border(fitted):
            return fitted
        zoom *= 1.01
    return None


def _largest(values: np.ndarray) -> float:
    """The largest number, NaN where there is none."""
    numbers = values[np.isfinite(values)]
    return float(numbers.max()) if len(numbers) else np.nan


def _windowed(lens: Lens, low: np.ndarray, high: np.ndarray, zoom: float) -> Lens:
    """The lens with the window of this zoom that lies in [low, high] and nearest to the old one."""
    focal = lens.focal * zoom
    size = np.array([lens.width, lens.height])
    extent = size / focal
    start = -lens.principal / focal
    slack = np.maximum(high - low - extent, 0)
    start = np.clip(start, low, low + slack)
    K = np.diag([focal[0], focal[1], 1.0])
    K[:2, 2] = -start * focal
    fitted = replace(lens, K=K)
    outline = _outline(fitted)
    x, y = outline.T
    shown = 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    share = min(1.0, shown / (lens.width * lens.height))
    return replace(fitted, valid_area=share)


def _outline(lens: Lens) -> Float64[np.ndarray, "S 2"]:
    """The edge of the pinhole image, clockwise, as places in the photo."""
    left, right, top, bottom = _border(lens)
    around = np.concatenate([top, right, bottom[::-1], left[::-1]])
    rays = (around - lens.K[:2, 2]) / lens.K[[0, 1], [0, 1]]
    return lens._project(rays)


def _shows_no_border(lens: Lens) -> bool:
    """Whether the edge of the pinhole image lies inside of the photo, to half a pixel."""
    outline = _outline(lens)
    size = np.array([lens.width, lens.height])
    return bool(((outline > -0.5) & (outline < size + 0.5)).all())


def sampling_grid(lens: Lens) -> Float32[torch.Tensor, "1 H W 2"]:
    """`Lens.sources` as torch wants it: -1 and 1 are the outer edges of the photo."""
    places = torch.from_numpy(lens.sources())
    return (places * torch.tensor([2 / lens.width, 2 / lens.height]) - 1)[None]


def remap(
    image: UInt8[np.ndarray, "H W 3"], grid: Float32[torch.Tensor, "1 H W 2"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo through the sampling grid, bilinear; strips of rows bound the memory."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    height, width = grid.shape[1:3]
    result = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for start in range(0, height, rows):
        sampled = functional.grid_sample(
            planes,
            grid[:, start : start + rows],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        levels = sampled[0].round_().clamp_(0, 255).byte()
        result[start : start + rows] = levels.permute(1, 2, 0).numpy()
    return result


def remap_nearest(
    mask: Integer[np.ndarray, "H W"], grid: Float32[torch.Tensor, "1 H W 2"]
) -> Integer[np.ndarray, "H W"]:
    """The mask or labels below 2^24 through the sampling grid; no value is made up."""
    plane = torch.from_numpy(mask)[None, None].float()
    sampled = functional.grid_sample(
        plane, grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return sampled[0, 0].numpy().astype(mask.dtype)
