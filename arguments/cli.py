"""The command line: INRIA's flags over the dataclasses of config.py, errors in one line.

Knows how flags are spelt, and nothing of what they do.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TextIO, TypeVar, cast

import tyro

from arguments.config import TrainConfig
from arguments.failures import LastingStream, is_lost_gpu, report
from arguments.messages import ExitCode, UserError
from arguments.signals import stopping_at_once

Config = TypeVar("Config")

# Flags of the INRIA code that change nothing here: accepted, and said.
ACCEPTED = {
    "--antialiasing": (0, "anti-aliasing is on unless --filter classic"),
    "--debug": (0, "inputs are always checked"),
    "--detect_anomaly": (0, "non-finite values always stop the run"),
    "--convert_SHs_python": (0, "the harmonics are evaluated in the rasterizer"),
    "--compute_cov3D_python": (0, "covariances are computed in the rasterizer"),
    "--debug_from": (1, "inputs are always checked"),
    "--ip": (1, "there is no network viewer"),
    "--port": (1, "there is no network viewer"),
    "--disable_viewer": (0, "there is no network viewer"),
    "--position_lr_delay_mult": (1, "the means' learning rate has no delay"),
}
# Flags of the INRIA code that would change the result and that this program lacks.
REFUSED = {
    "--depths": "depth supervision is not supported",
    "-d": "depth supervision is not supported",
    "--depth_l1_weight_init": "depth supervision is not supported",
    "--depth_l1_weight_final": "depth supervision is not supported",
    "--train_test_exp": "exposure compensation is not supported",
    "--exposure_lr_init": "exposure compensation is not supported",
    "--exposure_lr_final": "exposure compensation is not supported",
    "--optimizer_type": "there is one optimizer",
}


def without_inria_leftovers(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without INRIA flags that mean nothing here, and a note for each of those.

    Raises:
        UserError: a flag asks for something that is not supported.
    """
    spelt = {flag.replace("-", "_"): flag for flag in (*ACCEPTED, *REFUSED)}
    kept: list[str] = []
    notes: list[str] = []
    waiting = 0
    for argument in arguments:
        if waiting:
            waiting -= 1
            continue
        flag = spelt.get(argument.split("=", 1)[0].replace("-", "_"))
        if flag in REFUSED:
            raise UserError(f"{argument}: {REFUSED[flag]}; leave it out", ExitCode.USAGE)
        if flag in ACCEPTED:
            values, reason = ACCEPTED[flag]
            waiting = 0 if "=" in argument else values
            notes.append(f"{argument} is ignored: {reason}")
            continue
        kept.append(argument)
    return kept, notes


def parse(kind: type[Config], arguments: Sequence[str], prog: str, description: str) -> Config:
    """`arguments` as a `kind`; --help prints and exits 0.

    Raises:
        UserError: the command line is wrong; tyro's framed text becomes one line.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(
                kind,
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = re.sub(r"[^\x20-\x7e]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", stderr.getvalue()))
        words = " ".join(re.sub(r"-{3,}", " ", words).split())
        raise UserError(f"{words[:230]}; see {prog} --help", ExitCode.USAGE) from None


def parse_train(arguments: Sequence[str]) -> tuple[TrainConfig, list[str]]:
    """The configuration of `train.py ...`, and notes on INRIA flags that do nothing here."""
    kept, notes = without_inria_leftovers(arguments)
    config = parse(
        TrainConfig,
        kept,
        prog="train.py",
        description="Reconstruct a place from photos taken in the wild as clean 3D Gaussians.",
    )
    return config, notes


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Run a command on the program's arguments; end with its exit code and one `error:` line."""
    sys.stderr = cast(TextIO, LastingStream(sys.stderr))
    try:
        with stopping_at_once():
            command(sys.argv[1:])
    except SystemExit:
        raise
    except BaseException as failure:  # noqa: BLE001 - the one place that turns a bug into a report
        code = report(failure)
        if is_lost_gpu(failure):  # what frees memory on the way out would ask the GPU, and abort
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)
