"""The three benchmarks: their scenes, at which size they are measured, how they are trained.

Facts only; reads no file. Sizes are those of the published comparisons: On-the-go and RobustNeRF by
the longest side that COLMAP's undistorter is given, PhotoTourism as it is delivered.
"""

from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["onthego", "robustnerf", "phototourism"]


@dataclass(frozen=True)
class SceneProtocol:
    """One scene of a benchmark.

    Attributes:
        name: of the prepared folder.
        folder: of the scene in the official download.
        longest_side: of the prepared photos in pixels; None leaves them as they are.
        split_file: the list of train and test photos beside the download, where it has one.
    """

    name: str
    folder: str
    longest_side: int | None
    split_file: str | None = None


@dataclass(frozen=True)
class DatasetProtocol:
    """One benchmark.

    Attributes:
        title: as people call it.
        benchmark_id: its name in nerfbaselines, by which methods choose their presets.
        evaluation: nerfbaselines' name of the measurement.
        origin: where the download comes from.
        training: flags of train.py that the benchmark needs beside the defaults.
    """

    name: DatasetName
    title: str
    benchmark_id: str
    evaluation: Literal["default", "nerfw"]
    origin: str
    scenes: tuple[SceneProtocol, ...]
    training: tuple[str, ...] = ()

    def scene(self, name: str) -> SceneProtocol | None:
        """The scene of that name, with hyphens or underscores; None where there is none."""
        plain = name.replace("_", "-")
        return next((s for s in self.scenes if s.name.replace("_", "-") == plain), None)


ONTHEGO = DatasetProtocol(
    name="onthego",
    title="NeRF On-the-go",
    benchmark_id="nerfonthego-undistorted",
    evaluation="default",
    origin="https://cvg-data.inf.ethz.ch/on-the-go.zip",
    scenes=(
        SceneProtocol("mountain", "mountain", 504),
        SceneProtocol("fountain", "fountain", 504),
        SceneProtocol("corner", "corner", 504),
        SceneProtocol("patio", "patio", 480),
        SceneProtocol("spot", "spot", 504),
        SceneProtocol("patio-high", "patio_high", 504),
    ),
)

ROBUSTNERF = DatasetProtocol(
    name="robustnerf",
    title="RobustNeRF",
    benchmark_id="robustnerf",
    evaluation="default",
    origin="https://storage.googleapis.com/jax3d-public/projects/robustnerf/robustnerf.tar.gz",
    scenes=(
        SceneProtocol("statue", "statue", 504),
        SceneProtocol("android", "android", 504),
        SceneProtocol("yoda", "yoda", 432),
        SceneProtocol("crab2", "crab2", 432),
    ),
)

PHOTOTOURISM = DatasetProtocol(
    name="phototourism",
    title="PhotoTourism",
    benchmark_id="phototourism",
    evaluation="nerfw",
    origin="https://www.cs.ubc.ca/research/kmyi_data/imw2020 (lists: https://nerf-w.github.io)",
    scenes=(
        SceneProtocol("brandenburg_gate", "brandenburg_gate", None, "brandenburg.tsv"),
        SceneProtocol("sacre_coeur", "sacre_coeur", None, "sacre.tsv"),
        SceneProtocol("trevi_fountain", "trevi_fountain", None, "trevi.tsv"),
    ),
    # arXiv 2506.03538: 100,000 steps, with the intervals of a run of 30,000.
    training=(
        *("--iterations", "100000"),
        *("--densify_from_iter", "500"),
        *("--densify_until_iter", "30000"),
        *("--densification_interval", "1000"),
        *("--agreement_from_iter", "1000"),
        *("--sh_interval", "1000"),
    ),
)

DATASETS = (ONTHEGO, ROBUSTNERF, PHOTOTOURISM)


def dataset(name: DatasetName) -> DatasetProtocol:
    """The benchmark of that name."""
    return next(protocol for protocol in DATASETS if protocol.name == name)
