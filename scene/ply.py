"""Gaussians as a PLY file in INRIA's layout: the only file that knows INRIA's property names.

Values are written as they are optimized: ln of the scale, logit of the opacity.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import plyfile
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from arguments.messages import ExitCode, Messages, UserError
from scene.atomic import write_atomic
from scene.host_memory import host_memory
from scene.ply_header import PlyHeader, check_header

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
OPACITY = ("opacity",)
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = (*POSITION, *COLOR, *OPACITY, *SCALE, *ROTATION)
REST_COUNTS = (0, 9, 24, 45)
SMALLEST_QUATERNION = 1e-12
MOST_ROWS = 2**31 - 1  # what readers with 32-bit counts can hold
ROWS_AT_A_TIME = 65_536
COPIES_READ = 2  # of a file while it is read: as tensors, and as the rows that are checked


@dataclass(frozen=True)
class Splats:
    """Gaussians as a PLY file holds them.

    Attributes:
        quats: rotation local to world, wxyz, any norm.
        log_scales: ln of the standard deviations in world units.
        shN: coefficients of the bands above 0; K - 1 is 0, 3, 8 or 15.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    opacity_logits: Float[Tensor, " N"]
    sh0: Float[Tensor, "N 1 3"]
    shN: Float[Tensor, "N R 3"]


def write_ply(path: Path, splats: Splats) -> int:
    """Write the splats; rows with a value that no viewer can draw are left out.

    Returns:
        How many rows were left out.

    Raises:
        UserError: no row is left, there are more than readers can count, or the file cannot be
            written; what was there stays.
    """
    count = len(splats.means)
    if count > MOST_ROWS:
        raise UserError(
            f"cannot write {path}: {count} Gaussians, readers count to {MOST_ROWS}; write fewer"
        )
    left = sum(len(rows) for rows in _drawable_rows(splats))
    if not left:
        raise UserError(
            f"nothing to export to {path}: 0 of {count} Gaussians can be drawn",
            ExitCode.NUMERICAL,
        )
    try:
        write_atomic(path, ply_parts(splats, left))
    except OSError as error:
        raise UserError(
            f"cannot write '{path}': {error.strerror}; free some space or choose another -m",
            ExitCode.FILE_SYSTEM,
        ) from error
    return count - left


def ply_parts(splats: Splats, num_rows: int) -> Iterator[bytes]:
    """The bytes of a file in parts, so that a large one takes little memory.

    Args:
        num_rows: how many of the splats can be drawn.
    """
    names = _property_names(3 * splats.shN.shape[1])
    properties = "".join(f"property float {name}\n" for name in names)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {num_rows}\n"
    yield f"{head}{properties}end_header\n".encode("ascii")
    for rows in _drawable_rows(splats):
        yield rows.astype("<f4", copy=False).tobytes()


def _drawable_rows(splats: Splats) -> Iterator[Float32[np.ndarray, "n P"]]:
    """The rows that viewers can draw, some at a time."""
    for start in range(0, len(splats.means), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        rows = _rows(Splats(**{f.name: getattr(splats, f.name)[part] for f in fields(splats)}))
        drawable = np.isfinite(rows).all(axis=1)
        norms = np.linalg.norm(rows[:, -len(ROTATION) :].astype(np.float64), axis=1)
        yield rows[drawable & (norms > SMALLEST_QUATERNION)]


def read_ply(path: Path, messages: Messages | None = None) -> Splats:
    """Read splats of any SH degree; little or big endian, or ASCII.

    Raises:
        UserError: not there, damaged, or a file of another kind.
    """
    try:
        header = check_header(path)
        num_rest = _check_properties(header, path)
        _check_memory(header, path)
        table = plyfile.PlyData.read(path)["vertex"].data
    except OSError as error:
        code = ExitCode.BAD_INPUT if isinstance(error, FileNotFoundError) else ExitCode.FILE_SYSTEM
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path", code) from error
    except (plyfile.PlyParseError, ValueError) as error:
        raise UserError(f"{path}: {error}; export the file again") from error
    rest = tuple(f"f_rest_{i}" for i in range(num_rest))
    splats = Splats(
        means=_columns(table, POSITION),
        quats=_columns(table, ROTATION),
        log_scales=_columns(table, SCALE),
        opacity_logits=_columns(table, OPACITY)[:, 0],
        sh0=_columns(table, COLOR)[:, None, :],
        shN=_columns(table, rest).reshape(len(table), 3, -1).transpose(1, 2).contiguous()
        if num_rest
        else torch.zeros(len(table), 0, 3),
    )
    return _sane(splats, path, header, messages or Messages(quiet=True))


def _rows(splats: Splats) -> Float32[np.ndarray, "N P"]:
    """One row of numbers a Gaussian, in the order of the properties."""
    count = len(splats.means)
    columns = (
        splats.means,
        torch.zeros_like(splats.means),
        splats.sh0[:, 0],
        splats.shN.transpose(1, 2).reshape(count, 3 * splats.shN.shape[1]),
        splats.opacity_logits[:, None],
        splats.log_scales,
        splats.quats,
    )
    return torch.cat([column.detach().cpu().float() for column in columns], dim=1).numpy()


def _property_names(num_rest: int) -> tuple[str, ...]:
    rest = (f"f_rest_{i}" for i in range(num_rest))
    return (*POSITION, *NORMAL, *COLOR, *rest, *OPACITY, *SCALE, *ROTATION)


def _columns(table: np.ndarray, names: tuple[str, ...]) -> Float32[Tensor, "N P"]:
    columns = np.empty((len(table), len(names)), np.float32)
    for index, name in enumerate(names):
        columns[:, index] = table[name]
    return torch.from_numpy(columns)


def _check_memory(header: PlyHeader, path: Path) -> None:
    """Refuse a file that cannot be held, before the system ends the process for it.

    Raises:
        UserError: its rows take more than the memory that is free.
    """
    needed = sum(4 * e.count * len(e.properties) * COPIES_READ for e in header.elements)
    free = host_memory().free
    if needed > free:
        raise UserError(
            f"reading {path} takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free",
            ExitCode.MEMORY,
        )


def _check_properties(header: PlyHeader, path: Path) -> int:
    """How many `f_rest` values a row has.

    Raises:
        UserError: the file holds no splats, or an odd number of them.
    """
    names = header.properties_of("vertex")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        shown = " ".join(missing[:2]) if len(missing) <= 2 else f"{', '.join(missing[:2])} ..."
        if set(POSITION) <= set(names) and not set(COLOR) & set(names):
            has_color = {"red", "green", "blue"} <= set(names)
            raise UserError(
                f"{path} has x,y,z{',rgb' if has_color else ''} only: a point cloud, "
                f"not a splat file (missing {_shown_missing(missing)})"
            )
        present = ", ".join(names[:6]) or "no element 'vertex'"
        raise UserError(
            f"{path} is no splat file in INRIA's layout: {shown} missing, has {present}"
        )
    rest = {name for name in names if re.fullmatch(r"f_rest_\d+", name)}
    is_gapless = rest == {f"f_rest_{i}" for i in range(len(rest))}
    if len(rest) not in REST_COUNTS or not is_gapless:
        raise UserError(
            f"{path} has {len(rest)} f_rest values a row, expected one of "
            f"{', '.join(map(str, REST_COUNTS))}; export it again"
        )
    return len(rest)


def _shown_missing(missing: list[str]) -> str:
    """The missing properties that say most: opacity and scales before the colour."""
    telling = [name for name in missing if name in (*OPACITY, *SCALE)] or missing
    return f"{', '.join(telling[:2])} ..." if len(missing) > 2 else ", ".join(telling)


def _sane(splats: Splats, path: Path, header: PlyHeader, messages: Messages) -> Splats:
    """The splats less the rows that cannot be drawn; says what looks wrong."""
    if header.trailing:
        messages.warn(f"{path} has {header.trailing} trailing bytes after its last row; ignored")
    rows = torch.from_numpy(_rows(splats))
    drawable = torch.isfinite(rows).all(dim=1)
    drawable &= splats.quats.norm(dim=1) > SMALLEST_QUATERNION
    if not bool(drawable.all()):
        count = int((~drawable).sum())
        messages.warn(f"{path}: {count} of {len(rows)} Gaussians cannot be drawn; dropped")
        values = {f.name: getattr(splats, f.name)[drawable] for f in fields(splats)}
        splats = Splats(**values)
    if not len(splats.means):
        raise UserError(f"{path} has no Gaussian that can be drawn; export it again")
    is_opacity = bool(((splats.opacity_logits >= 0) & (splats.opacity_logits <= 1)).all())
    if is_opacity and bool((splats.log_scales > 0).all()):
        messages.warn(f"{path}: opacities in [0, 1] and positive scales: looks already activated")
    return splats
