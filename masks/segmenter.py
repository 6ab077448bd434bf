"""What a source of segments is: the one call that proposals make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Int32, UInt8
from numpy import ndarray

from arguments.messages import Messages
from masks.static_evidence import StaticEvidence
from scene.undistort import Lens


@dataclass(frozen=True)
class Photo:
    """What there is to segment.

    Attributes:
        name: path relative to the image folder.
        evidence: where the photo shows what stands still; it may keep objects apart.
        lens: of the photo file, where `image` is that photo undistorted.
    """

    name: str
    image: UInt8[ndarray, "H W 3"]
    evidence: StaticEvidence
    lens: Lens | None = None


@runtime_checkable
class Segmenter(Protocol):
    """A source of segments."""

    description: str
    """In words, for the report of a run."""

    def identity(self, name: str) -> str:
        """Changes whenever the segments of the photo `name` may change."""
        ...

    def __call__(self, photo: Photo) -> Int32[ndarray, "L H W"]:
        """Layers of segments, the coarsest last; 0 is no segment."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a source of segments may need to know of the whole run.

    Attributes:
        names: of all photos that will be asked for.
        folder: where it may keep what it wants to remember.
    """

    names: Sequence[str]
    folder: Path
    messages: Messages
