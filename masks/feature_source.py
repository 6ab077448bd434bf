"""Keypoints found and matched anew as evidence: those on which the known poses agree.

Lowe 2004 (SIFT), as kornia has it: no weights are needed. For captures whose model is thin, since
a mapper keeps few points where photos are few, blurred or far apart.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
from kornia.feature import SIFTFeature, match_smnn
from numpy import ndarray
from PIL import Image
from torch import Tensor

from arguments.messages import ExitCode, UserError
from masks.agreement import NUM_OTHERS, PARALLAX, depths_of
from masks.matched_points import Matches, standing_still
from masks.neighbors import TrackIndex
from masks.static_evidence import ProvedPoints
from scene.capture import Capture, View
from scene.tensor_file import TensorFileError, read_tensors, write_tensors

NUM_FEATURES = 4000
LONGEST_SIDE = 1000  # pixels; larger photos are reduced
RATIO = 0.95  # of the distances to the nearest and to the second nearest descriptor, both ways
# One other photo is enough: only six are asked, so that few wrong matches happen to fit the poses.
MIN_PHOTOS = 2
MOST_KEPT = 128  # photos whose features are kept in memory, 2 MB each


@dataclass(frozen=True)
class _Features:
    xy: Float64[ndarray, "N 2"]
    descriptors: Float32[Tensor, "N 128"]


class FeatureSource:
    """Keypoints of a view that are found again in photos taken nearby, where the poses say so."""

    def __init__(self, capture: Capture, folder: Path) -> None:
        """Prepare; no photo is read yet.

        Args:
            folder: keeps what has been found, a small file for each photo.
        """
        self._capture = capture
        self._views = [capture.views[i] for i in capture.train]
        self._index = TrackIndex(self._views)
        self._folder = folder
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._detector = SIFTFeature(NUM_FEATURES, upright=True, device=self._device).eval()
        self._kept: OrderedDict[int, _Features] = OrderedDict()
        self.description = (
            f"features by SIFT on {self._device.type}, matched with {NUM_OTHERS} photos nearby, "
            "that agree with the poses"
        )

    def identity(self, view: View) -> str:
        """The photos and poses that the points come from."""
        state = hashlib.blake2b(digest_size=16)
        for one in (view, *self._others(view)):
            state.update(self._capture.image(one.view_id).numpy().tobytes())
            state.update(one.camera.viewmat.numpy().tobytes() + one.camera.K.numpy().tobytes())
        state.update(f"{NUM_FEATURES} {LONGEST_SIDE} {RATIO} {MIN_PHOTOS}".encode())
        return state.hexdigest()

    def __call__(self, view: View) -> ProvedPoints:
        """The keypoints of `view` that stand still, from its file where that is up to date.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self._folder / f"{view.stem}.safetensors"
        digest = torch.frombuffer(bytearray(self.identity(view).encode()), dtype=torch.uint8)
        known = _read(path, digest)
        if known is not None:
            return ProvedPoints("features", known)
        own = self._features(view)
        matches = []
        for other in self._others(view):
            theirs = self._features(other)
            if min(len(own.xy), len(theirs.xy)) < 2:  # a ratio takes two
                continue
            rows = match_smnn(own.descriptors, theirs.descriptors, RATIO)[1].cpu().numpy()
            matches.append(Matches(other.camera, rows[:, 0], theirs.xy[rows[:, 1]]))
        still = standing_still(view.camera, own.xy, matches, MIN_PHOTOS)
        xy = own.xy[still].astype(np.float32)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"xy": torch.from_numpy(xy), "digest": digest})
        except OSError as failure:
            raise UserError(
                f"cannot write {path}: {failure.strerror}; free space or choose another folder",
                ExitCode.FILE_SYSTEM,
            ) from failure
        return ProvedPoints("features", xy)

    def _others(self, view: View) -> list[View]:
        """Views near by, but not so near that what moves slowly looks still."""
        depths = depths_of(view)
        distance = PARALLAX * float(np.median(depths)) if len(depths) else 0.0
        rows = self._index.apart(view.view_id, distance, NUM_OTHERS)
        return [self._views[row] for row in rows]

    @torch.inference_mode()
    def _features(self, view: View) -> _Features:
        """Keypoints of a photo in its pixels, and what they look like."""
        if view.view_id not in self._kept:
            photo = Image.fromarray(self._capture.image(view.view_id).numpy()).convert("L")
            scale = min(1.0, LONGEST_SIDE / max(photo.size))
            width, height = (max(1, round(side * scale)) for side in photo.size)
            small = photo.resize((width, height), Image.Resampling.BOX)
            levels = np.asarray(small, dtype=np.float32)
            planes = torch.from_numpy(levels / 255)[None, None].to(self._device)
            frames, _, descriptors = self._detector(planes)
            xy = (frames[0, :, :, 2].double().cpu().numpy() + 0.5) * (photo.width / width)
            while len(self._kept) >= MOST_KEPT:
                self._kept.popitem(last=False)
            self._kept[view.view_id] = _Features(xy, descriptors[0])
        self._kept.move_to_end(view.view_id)
        return self._kept[view.view_id]


def _read(path: Path, digest: Tensor) -> Float32[ndarray, "P 2"] | None:
    """The points of an earlier call; None where there are none, or of other photos or poses."""
    try:
        tensors = dict(read_tensors(path))
    except (OSError, TensorFileError):
        return None
    xy, made_of = tensors.get("xy"), tensors.get("digest")
    if xy is None or made_of is None or made_of.tolist() != digest.tolist():
        return None
    is_sound = xy.dtype == torch.float32 and xy.ndim == 2 and xy.shape[1] == 2
    return xy.numpy() if is_sound else None
