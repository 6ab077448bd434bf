"""What render.py and evaluate.py can be told; does none of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arguments.messages import ExitCode, UserError
from evaluation.evaluate import METRICS, Evaluation, PerceptualSettings
from evaluation.lpips import Network
from evaluation.run_views import LAST, RunRequest, Split

Folder = Annotated[Path, tyro.conf.arg(aliases=["-m"])]
Source = Annotated[Path | None, tyro.conf.arg(aliases=["-s"])]


@dataclass(frozen=True)
class RenderCommand:
    """The command line of render.py; INRIA's flags are among it."""

    model_path: Folder
    """Folder of a trained run."""

    source_path: Source = None
    """The scene, if it is no longer where the run was trained."""

    split: Literal["test", "train", "all"] = "all"
    """Which views; training views get their masks too."""

    iteration: int = LAST
    """Which of the run's models; -1 is the last."""

    skip_train: bool = False
    """No training views."""

    skip_test: bool = False
    """No test views."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""

    quiet: bool = False
    """Print warnings and errors only."""

    def splits(self) -> tuple[Split, ...]:
        """The splits that are asked for.

        Raises:
            UserError: none is left.
        """
        wanted: list[Split] = []
        if self.split in ("test", "all") and not self.skip_test:
            wanted.append("test")
        if self.split in ("train", "all") and not self.skip_train:
            wanted.append("train")
        if not wanted:
            raise UserError(
                f"--split {self.split} with what is skipped leaves nothing; drop a --skip flag",
                ExitCode.USAGE,
            )
        return tuple(wanted)

    def request(self) -> RunRequest:
        """Which run to open."""
        return RunRequest(self.model_path, self.source_path, self.iteration, self.device)


@dataclass(frozen=True)
class EvaluateCommand:
    """The command line of evaluate.py."""

    model_path: Folder
    """Folder of a trained run."""

    source_path: Source = None
    """The scene, if it is no longer where the run was trained."""

    split: Split = "test"
    """Which views are measured."""

    iteration: int = LAST
    """Which of the run's models; -1 is the last."""

    lpips: Network = "alex"
    """Network of LPIPS: alex as nerfbaselines and gsplat report it, vgg as the 3DGS code does."""

    lpips_weights: Path | None = None
    """Folder of its two files of weights; None is $TWINSPLAT_WEIGHTS, ~/.cache/twinsplat/weights
    and the folder of torch hub."""

    require_lpips: bool = False
    """End with exit code 4 when LPIPS is null; the other metrics are written all the same."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""

    quiet: bool = False
    """Print the result, warnings and errors only."""

    def perceptual(self) -> PerceptualSettings:
        """Which LPIPS."""
        return PerceptualSettings(self.lpips, self.lpips_weights)

    def check_lpips(self, result: Evaluation) -> None:
        """Refuse a result without LPIPS where that is required.

        Raises:
            UserError: it is.
        """
        if self.require_lpips and result.lpips is None:
            text = f"LPIPS in {METRICS} is null: {result.lpips_reason}; drop --require_lpips"
            raise UserError(text, ExitCode.ENVIRONMENT)

    def request(self) -> RunRequest:
        """Which run to open."""
        return RunRequest(self.model_path, self.source_path, self.iteration, self.device)
