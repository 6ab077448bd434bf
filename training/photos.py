"""The training photos in the memory where they are wanted, and which of them a step draws.

Knows neither Gaussians nor losses.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from arguments.config import TrainConfig
from masks.features import FeatureExtractor, PhotoMemory
from masks.maskers import PhotoSet
from scene.cameras import Cameras
from scene.capture import Capture
from training.randomness import pick


@dataclass(frozen=True)
class ViewBatch:
    """Training views of one size on the device.

    Attributes:
        images: sRGB.
        keep: the user's own masks; None where no photo of this size has one.
        rows: which photos of their `PhotoSet` these are.
        owners: the trained branch, by number, whose own view each one is.
    """

    cameras: Cameras
    images: UInt8[Tensor, "C H W 3"]
    keep: Bool[Tensor, "C H W"] | None
    rows: Int[Tensor, " C"]
    owners: tuple[int, ...]

    def only(self, index: int) -> "ViewBatch":
        """A batch of that one view."""
        one = slice(index, index + 1)
        cameras = self.cameras
        return ViewBatch(
            Cameras(cameras.viewmats[one], cameras.Ks[one], cameras.width, cameras.height),
            self.images[one],
            None if self.keep is None else self.keep[one],
            self.rows[one],
            self.owners[one],
        )


def photo_sets(capture: Capture) -> list[PhotoSet]:
    """The training photos by size, in the order of their ids."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for view_id in capture.train:
        by_size.setdefault(capture.views[view_id].camera.size, []).append(view_id)
    return [PhotoSet(*size, tuple(view_ids)) for size, view_ids in by_size.items()]


def cameras_of(capture: Capture, photos: PhotoSet, device: torch.device) -> Cameras:
    """The cameras of one set."""
    return Cameras.of([capture.views[i].camera for i in photos.view_ids]).to(device)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; where it has to be copied there, the host does not wait for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class PhotoBank:
    """All training photos of one size; any of them at once by their rows."""

    def __init__(
        self, capture: Capture, photos: PhotoSet, device: torch.device, store: torch.device
    ) -> None:
        self._device = device
        self.cameras = cameras_of(capture, photos, device)
        self._images = self._stored([capture.image(i) for i in photos.view_ids], store)
        masks = [capture.mask(i) for i in photos.view_ids]
        everything = torch.ones(photos.height, photos.width, dtype=torch.bool)
        kept = [everything if mask is None else mask > 0 for mask in masks]
        self._keep = None if all(m is None for m in masks) else self._stored(kept, store)

    def _stored(self, tensors: list[Tensor], store: torch.device) -> Tensor:
        stacked = torch.stack(tensors).to(store)
        is_fetched = store.type == "cpu" and self._device.type == "cuda"
        return stacked.pin_memory() if is_fetched else stacked

    @property
    def images(self) -> UInt8[Tensor, "V H W 3"]:
        """All photos, where they are stored."""
        return self._images

    @property
    def is_on_device(self) -> bool:
        """Whether views can be had without the host."""
        return self._images.device.type == self._device.type

    def batch(self, rows: Int[Tensor, " C"], owners: tuple[int, ...]) -> ViewBatch:
        """Those views.

        Args:
            rows: on the device, or on the host where the photos are there.
        """
        on_device = upload(rows, self._device)
        at_photos = on_device if self.is_on_device else rows
        return ViewBatch(
            self.cameras.rows(on_device),
            upload(self._images[at_photos], self._device),
            None if self._keep is None else upload(self._keep[at_photos], self._device),
            on_device,
            owners,
        )


class ViewSource:
    """All training photos; which one comes when follows from seed and step."""

    def __init__(self, capture: Capture, config: TrainConfig, device: torch.device) -> None:
        kept, self._seed = config.run.data_device, config.run.seed
        store = device if kept == "auto" else torch.device(kept)
        sets = photo_sets(capture)
        self.banks = [PhotoBank(capture, photos, device, store) for photos in sets]
        places = {
            view_id: (bank, row)
            for bank, photos in enumerate(sets)
            for row, view_id in enumerate(photos.view_ids)
        }
        self._places = [places[view_id] for view_id in capture.train]
        self._photo_names = [capture.views[view_id].name for view_id in capture.train]

    def show_all_to(self, features: FeatureExtractor) -> None:
        """Let features that remember photos know all of them."""
        if isinstance(features, PhotoMemory):
            for bank in self.banks:
                features.remember(bank.images)

    def names(self, drawn: list[int]) -> tuple[str, ...]:
        """What the photos of drawn views are called."""
        return tuple(self._photo_names[number] for number in drawn)

    def draw(self, step: int, names: list[str]) -> list[int]:
        """A view for each branch, independently, uniformly, with replacement.

        Numbers count the training views; with photos of one size they are rows of the one bank.
        """
        return [pick(self._seed, step, f"view/{name}", len(self._places)) for name in names]

    def batches(self, drawn: list[int]) -> list[ViewBatch]:
        """The drawn views, one batch for each size among them."""
        found: dict[int, list[int]] = {}
        for owner, number in enumerate(drawn):
            found.setdefault(self._places[number][0], []).append(owner)
        return [
            self.banks[bank].batch(
                torch.tensor([self._places[drawn[owner]][1] for owner in owners]), tuple(owners)
            )
            for bank, owners in found.items()
        ]
