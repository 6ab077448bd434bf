"""Pinhole cameras as the renderer takes them; knows neither files nor photos."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """One undistorted pinhole camera.

    Attributes:
        viewmat: world to camera, `x_cam = viewmat @ x_world`; x right, y down, z forward.
        K: intrinsics in pixels; the centre of the top left pixel is (0.5, 0.5).
        width: image width in pixels.
        height: image height in pixels.
    """

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int

    @cached_property
    def position(self) -> Float[Tensor, "3"]:
        """Camera centre in world units."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class Cameras:
    """Cameras of one image size, rendered in one call.

    Attributes:
        viewmats: world to camera, OpenCV axes.
        Ks: intrinsics in pixels; pixel centres at +0.5.
        width: image width in pixels.
        height: image height in pixels.
    """

    viewmats: Float[Tensor, "C 4 4"]
    Ks: Float[Tensor, "C 3 3"]
    width: int
    height: int

    @classmethod
    def of(cls, cameras: list[Camera]) -> "Cameras":
        """A batch of cameras that share one image size.

        Raises:
            ValueError: the sizes differ.
        """
        sizes = {camera.size for camera in cameras}
        if len(sizes) != 1:
            raise ValueError(f"a batch needs one image size, got {sorted(sizes)}")
        width, height = sizes.pop()
        return cls(
            torch.stack([camera.viewmat for camera in cameras]),
            torch.stack([camera.K for camera in cameras]),
            width,
            height,
        )

    def __len__(self) -> int:
        """How many cameras."""
        return len(self.viewmats)

    def rows(self, rows: Int[Tensor, " R"]) -> "Cameras":
        """Those cameras, in that order; nothing is read back from the device."""
        return Cameras(self.viewmats[rows], self.Ks[rows], self.width, self.height)

    def split(self, count: int) -> list["Cameras"]:
        """The same cameras in batches of at most `count`."""
        parts = zip(self.viewmats.split(count), self.Ks.split(count), strict=True)
        return [Cameras(viewmats, Ks, self.width, self.height) for viewmats, Ks in parts]

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on another device."""
        return Cameras(self.viewmats.to(device), self.Ks.to(device), self.width, self.height)
